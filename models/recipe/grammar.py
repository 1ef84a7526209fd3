"""Owns the requests: templates per intent, slot filling, wrappers and speech noise.

`draw_request` yields a spoken request with its meaning (intent, task, when). Templates are
written in a small notation: `(a|b)` is a choice, `[a]` is optional, `{T}` the task, `{W}` the
time as an adverb and `{B}` the bare time. Each intent has training templates and held-out
templates; the latter are never used for training. Knows nothing of replies or models.
"""

import random
import re
from dataclasses import dataclass

import lexicon as lx
from times import When, draw_when, duration


@dataclass(frozen=True)
class Request:
    """One spoken request and what it means; `adverb` is the time as a reply would say it."""

    text: str
    intent: str
    task: str
    when: str | None
    adverb: str | None

    def meaning(self) -> dict:
        """The object that the adapter `requests` has to produce."""
        return {"intent": self.intent, "task": self.task, "when": self.when}


# "{T}" is filled by the intent's task maker, the other letters as `_fill` says.
TRAIN = {
    "reminder": [
        "remind me to {T} {W}", "remind me to {T} {W}", "remind me to {T}", "{W} remind me to {T}",
        "remind me {W} to {T}", "(set|make|create|add|put in) (a|one|a new) reminder [for me] to {T} {W}",
        "(set|make|create|add) a reminder for {B} to {T}", "(set|make|create) a reminder (to|so that i) {T}",
        "don't let me forget to {T} {W}", "i (need|have|want) to be reminded to {T} {W}", "i (must|should) not forget to {T} {W}",
        "(give|send) me a reminder to {T} {W}", "a reminder to {T} {W}", "i need a reminder {W} to {T}", "reminder to {T} {W}",
        "help me remember to {T} {W}", "make sure (i|that i) {T} {W}", "tell me {W} to {T}", "{W} i need to {T} so remind me",
        "i have to {T} {W} [so] (remind me|don't let me forget)", "remind me that i (need|have) to {T} {W}", "remind me {W} that i have to {T}",
        "ping me {W} to {T}", "nudge me to {T} {W}", "{W} (tell|ask) me to {T}",
    ],
    "alarm": [
        "wake me [up] {W}", "wake me [up] {W}", "(set|make|create|put) (an|one|a new) alarm for {B}", "(set|make|create) an alarm {W}",
        "i (need|want) an alarm (for {B}|{W})", "i (need|have|want) to (wake|get) up {W}", "alarm (for {B}|{W})", "{W} wake me up",
        "(set|put) my alarm (for|to) {B}", "make sure i'm (up|awake) {W}", "get me up {W}", "(switch|turn) on (an|my) alarm for {B}",
        "give me a wake up call {W}", "i want to be woken {W}", "(add|schedule) an alarm for {B}", "don't let me sleep past {B}",
    ],
    "timer": [
        "(set|start|make|create|run) (a|one|another) timer for {D}", "(set|start) a {D} timer", "timer for {D}", "(count down|countdown) {D}",
        "(set|start) (a|the) [kitchen] timer [for me] for {D}", "{D} timer", "(give|get) me a timer for {D}", "time {D} [for me]",
        "(set|start) (a|the) {X} timer for {D}", "(set|start) a timer for {X} for {D}", "(set|start) a {D} timer for {X}",
        "{X} timer for {D}", "time {X} for {D}", "i need a {D} timer for {X}", "put {D} on the timer [for {X}]",
    ],
    "event": [
        "(add|put|schedule|book|create|plan) (a|the|my) {T} {W}", "(add|put) (a|the|my) {T} (in|to|on|into) my (calendar|diary) {W}",
        "(add|put) (a|the|my) {T} (in|to|on|into) my (calendar|diary) for {B}", "schedule (a|the|my) {T} for {B}", "i have a {T} {W}",
        "(make|create) (an appointment|a calendar entry|an event) for (a|the|my) {T} {W}", "{W} i have (a|my) {T}", "new event {T} {W}",
        "(my calendar|calendar) (a|the) {T} {W}", "there is a {T} {W} [put it in my calendar]", "block {B} for (a|my) {T}",
        "save the date for my {T} {W}", "add to my calendar {T} {W}", "pencil in a {T} {W}", "set up a {T} {W}", "{W} there's a {T}",
    ],
    "call": [
        "call {T}", "call {T}", "(phone|ring|dial) {T}", "(call|phone|ring) {T} {W}", "give {T} a (call|ring)", "give {T} a (call|ring) {W}",
        "i (want|need|would like) to (speak|talk) (to|with) {T}", "(make|place|start) a [phone|video] call (to|with) {T}", "get {T} on the (phone|line)",
        "call {T} [for me] on (speaker|the mobile)", "video call {T}", "connect me (to|with) {T}", "i need to call {T}", "try {T} again",
        "call (up|back) {T}", "let me (speak|talk) to {T}", "could we call {T}", "put me through to {T}",
    ],
    "message": [
        "(text|message) {P} that {M}", "(text|message) {P} {M}", "send (a|this|the) (message|text) to {P} saying {M}", "tell {P} [that] {M}",
        "send {P} (a|the) (message|text) [saying] {M}", "(write|drop) {P} a (message|note) saying {M}", "let {P} know [that] {M}",
        "message to {P} {M}", "(text|message) {P} {W} that {M}", "(write|text) to {P} {M}", "send {M} to {P}", "say {M} to {P}",
        "send {P} a (message|text) {W} saying {M}", "i want to (text|message) {P} {M}", "(inform|notify) {P} that {M}",
    ],
    "shopping": [
        "(add|put) {T} (to|on) (my|the|our) [shopping|grocery] list", "(add|put) {T} (to|on) (my|the|our) shopping list", "we (need|are out of) {T}",
        "i need to buy {T}", "(buy|get) {T}", "(buy|get) {T} {W}", "{T} (on|to) the shopping list", "we're (running out of|almost out of) {T}",
        "(note|write) {T} on the (shopping|grocery) list", "shopping list {T}", "i need {T} from the (shop|supermarket)",
        "don't forget {T} from the shop", "(order|pick up) {T} [from the shop] {W}", "we have no more {T}", "i want to buy {T} {W}",
    ],
    "todo": [
        "(add|put) {T} (to|on) my (to do|todo|task) list", "(add|put) {T} (to|on) my (to do|todo|task) list for {B}", "new task {T}", "new task {T} {W}",
        "(create|make|add) a task to {T} {W}", "(create|make|add) a (to do|todo) to {T} {W}", "(to do|todo) {T} {W}", "task {T}",
        "my (to do|todo) list needs {T}", "put down {T} as a task [for {B}]", "i have a new task {T}", "{T} goes on my (to do|todo) list",
        "(add|create) (the|a) task {T} for {B}", "add {T} to the things i have to do", "on my (to do|todo) list put {T}",
    ],
    "note": [
        "(take|make|write) a note [that] {N}", "note [down] that {N}", "note that {N}", "(write|jot) (this|that) down {N}", "new note {N}",
        "save (a|this) note {N}", "make a note saying {N}", "remember that {N}", "note {N}", "(start|create) a note {N}", "write down [that] {N}",
        "add a note that {N}", "for my notes {N}", "please remember {N}", "keep in mind that {N}",
    ],
    "weather": [
        "what's the weather [like] {W}", "what's the weather [like] in {T} {W}", "(how is|how's) the weather in {T} {W}", "what is the weather in {T}",
        "will it be (warm|cold|sunny|windy|wet) in {T} {W}", "(show|give|tell) me the (weather|forecast) for {T} {W}", "weather in {T} {W}",
        "is it going to rain in {T} {W}", "do i need (an umbrella|a coat) in {T} {W}", "what's the forecast for {T} {W}", "weather {W}",
        "how (hot|cold|warm) will it be in {T} {W}", "will it (rain|snow) in {T} {W}", "what will the weather be {W} in {T}", "forecast for {T}",
        "(how is|how's) the weather {W}", "is it going to rain {W}", "{W} what's the weather in {T}",
    ],
    "music": [
        "play {T}", "play {T}", "play {T} {W}", "put on {T}", "(put|turn) {T} on", "i (want|would like) to (hear|listen to) {T}", "start {T}",
        "(play|put on) (some music by|something by|songs by) {T}", "(play|put on) {T} in {R}", "let me (hear|listen to) {T}",
        "can we (have|hear) {T}", "i'm in the mood for {T}", "(play|start) the (song|album|track) {T}", "shuffle {T}", "queue {T} [next]",
        "next song {T}", "how about {T}", "give me {T}",
    ],
    "lights": [
        "(turn|switch) (on|off) the (light|lights) in {R}", "(turn|switch) the (light|lights) in {R} (on|off)", "(dim|brighten) the lights in {R}",
        "(turn|switch) the (light|lights) (on|off) in {R} {W}", "(turn|switch) (on|off) the (light|lights) in {R} {W}", "lights (on|off) in {R}",
        "(set|turn|change) the lights in {R} to {C}", "make the lights in {R} {C}", "it's too (dark|bright) in {R}", "(dim|brighten) {R}",
        "i want {C} light in {R}", "(set|turn) {R} lights to {C}", "(set|dim) the lights in {R} to {N} percent", "{W} (turn|switch) (on|off) the lights in {R}",
    ],
    "heating": [
        "(set|turn|change) the (heating|temperature|thermostat) [in {R}] to {G}", "(set|turn|change) the (heating|temperature|thermostat) in {R} to {G} {W}",
        "(turn|switch) (on|off|up|down) the heating in {R}", "(turn|switch) the heating (on|off|up|down) in {R} {W}", "heat {R} to {G}", "heat {R} to {G} {W}",
        "make it {G} in {R}", "make it (warmer|cooler) in {R}", "it's too (cold|hot) in {R}", "(warm|cool) up {R}", "heating in {R} to {G}",
        "i want {R} at {G}", "(raise|lower) the (temperature|heating) in {R} to {G}", "warm up {R} {W}", "set {R} to {G}",
    ],
    "navigation": [
        "(navigate|drive|guide|take|bring) me to {T}", "navigate to {T}", "how do i get to {T}", "(directions|route|navigation) to {T}", "(give|show) me directions to {T}",
        "(find|show me) the (way|route|fastest way) to {T}", "i (want|need|have) to (go|get|drive) to {T}", "(start|plan) (a|the) route to {T}",
        "i (need|have) to be at {T} {W}", "(drive|take|get) me to {T} {W}", "which way is {T}", "where is {T}", "how far is it to {T}",
        "plan a route to {T} {W}", "let's (go|drive) to {T}", "what's the (fastest|best) way to {T}", "lead me to {T}",
    ],
    "cancel": [
        "(cancel|delete|remove) (my|the) {K} {W}", "(cancel|delete|remove) (my|the) {K} for {B}", "(cancel|delete|remove|stop) (my|the) {K}",
        "(turn|switch) off (my|the) {K} {W}", "get rid of (my|the) {K} [{W}]", "i (don't|no longer) need (my|the) {K} {W}", "(forget|drop|scrap) (my|the) {K} {W}",
        "(take|remove) (my|the) {K} off my calendar", "call off (my|the) {K} {W}", "clear (my|the) {K} {W}", "{W} i don't need (my|the) {K}",
    ],
    "other": ["{Q}", "{Q}", "{Q}", "(can|could) you tell me {Q}", "i (wonder|want to know) {Q}", "tell me {Q}", "question {Q}"],
}

HELD_OUT = {
    "reminder": [
        "(could you|can you) make sure i get reminded to {T} {W}", "put a reminder in for {B} to {T}", "{W} please remember to remind me to {T}",
        "i'd like a reminder to {T} {W}", "please don't forget to remind me to {T} {W}", "i might forget to {T} {W} so remind me",
        "drop me a reminder {W} to {T}", "it would be great if you reminded me to {T} {W}", "schedule a reminder to {T} for {B}",
    ],
    "alarm": [
        "i'd like an alarm for {B}", "please get me out of bed {W}", "can you have an alarm ready for {B}", "set up an alarm for {B}",
        "i've got to be awake {W}", "an alarm {W} would be good", "i'd like to be woken up {W}",
    ],
    "timer": [
        "begin a timer for {D}", "could i have a timer for {D}", "i'd like a {D} timer", "let a timer run for {D}", "could you time {X} for {D}",
        "set up a {D} timer for {X}", "start counting down {D}",
    ],
    "event": [
        "could you get a {T} into my calendar {W}", "i've got a {T} {W}", "write a {T} into my diary for {B}", "mark my {T} in the calendar {W}",
        "enter a {T} in my calendar {W}", "make room in my calendar for a {T} {W}",
    ],
    "call": [
        "i'd like to call {T}", "can you get hold of {T} on the phone", "start a call with {T} {W}", "please dial {T} for me", "i'd like to have a phone call with {T}",
        "make a call to {T} {W}",
    ],
    "message": [
        "could you write a text to {P} saying {M}", "shoot {P} a message saying {M}", "please pass on to {P} that {M}", "get a message to {P} that {M}",
        "i'd like to send {P} a message saying {M}", "new message to {P} {M}",
    ],
    "shopping": [
        "could you stick {T} on the shopping list", "our shopping list is missing {T}", "we could do with {T} from the shop", "write down {T} for the shopping list",
        "i've run out of {T}", "i'd like to buy {T} {W}", "include {T} in the shopping list",
    ],
    "todo": [
        "stick {T} on my to do list", "i'd like {T} on my task list", "make {T} a task for {B}", "another task for my list {T}", "write {T} on my todo list",
        "i've got a task for {B} {T}",
    ],
    "note": [
        "could you write a quick note that {N}", "i'd like to note down that {N}", "put in my notes that {N}", "take this down as a note {N}", "here is a note {N}",
    ],
    "weather": [
        "can you check the weather in {T} {W}", "i'd like the forecast for {T} {W}", "what sort of weather will {T} have {W}", "any rain in {T} {W}",
        "what's it going to be like in {T} {W} weather wise",
    ],
    "music": [
        "i'd like you to play {T}", "could you get {T} playing", "let's listen to {T}", "start playing {T} {W}", "i feel like listening to {T}", "play me {T}",
    ],
    "lights": [
        "get the lights (on|off) in {R}", "i'd like the lights in {R} turned (on|off) {W}", "have the lights in {R} (on|off) {W}", "give {R} {C} light",
        "i'd like the lights in {R} to be {C}",
    ],
    "heating": [
        "i'd like it to be {G} in {R}", "get {R} to {G}", "adjust the heating in {R} to {G}", "put the heating in {R} at {G} {W}", "have {R} at {G} {W}",
    ],
    "navigation": [
        "i'd like directions to {T}", "could you show me how to get to {T}", "what's the way to {T}", "please guide me over to {T}", "set a course for {T}",
        "i've got to get to {T} {W}",
    ],
    "cancel": [
        "i'd like to cancel my {K} {W}", "please take away my {K} {W}", "could you undo my {K} {W}", "(my|the) {K} {W} can be deleted", "go ahead and delete the {K} for {B}",
    ],
    "other": ["do you know {Q}", "i'd like to know {Q}", "quick question {Q}", "any idea {Q}"],
}

# Openers that fit before an imperative only, and openers that fit anywhere.
ASKING = ["please", "can you", "could you", "would you", "can you please", "could you please", "i'd like you to", "will you", "please can you"]
OPENERS = ["hey", "hi", "ok", "okay", "so", "hello", "hey there", "alright", "hey assistant", "quick one", "listen", "right", "now", "and", "oh"]
HELD_OUT_OPENERS = ["good morning", "one more thing", "excuse me", "right then", "hey you", "oh and", "good evening", "before i forget"]
NOT_IMPERATIVE = set("""i i'd i've i'm we we're what's what is how how's do will it's a an my the could can any another our which where let's there
have it alarm timer reminder task to shopping weather forecast lights heating directions route navigation question on for here new next message
please don't (could (can i'd""".split())
CLOSERS = ["please", "thanks", "thank you", "for me", "if you can", "okay", "thanks a lot", "if you don't mind", "please and thanks"]
HELD_OUT_CLOSERS = ["cheers", "many thanks", "that would be great", "if possible", "there's a dear"]
FILLERS = ["um", "uh", "er", "uhm", "hmm", "like", "you know", "well"]
TIMELESS = {"timer", "note", "other"}
INTENTS = list(TRAIN)
WEIGHTS = {"reminder": 3.2, "alarm": 1.3, "timer": 1.2, "event": 1.8, "call": 1.1, "message": 1.6, "shopping": 1.3, "todo": 1.3, "note": 1.0,
           "weather": 1.0, "music": 1.1, "lights": 1.0, "heating": 0.8, "navigation": 1.0, "cancel": 0.7, "other": 0.7}
_GROUP = re.compile(r"\(([^()\[\]]*)\)|\[([^()\[\]]*)\]")


def expand(template: str, rng: random.Random) -> str:
    """Resolves choices and options, innermost first."""
    while match := _GROUP.search(template):
        if match.group(1) is not None:
            text = rng.choice(match.group(1).split("|"))
        else:
            text = rng.choice(match.group(2).split("|")) if rng.random() < 0.5 else ""
        template = template[: match.start()] + text + template[match.end():]
    return " ".join(template.split())


def errand(lex: lx.Lexicon) -> str:
    """A verb phrase: something a person may have to do."""
    rng, r = lex.rng, lex.rng.random()
    if r < 0.24:
        return lex.pick(lx.CHORES)
    if r < 0.38:
        verb = rng.choice(("call", "call", "phone", "email", "text", "visit", "meet", "ring", "thank", "write to", "pay", "see"))
        tail = rng.choice(("", "", "", f" about {lex.pick(lx.TOPICS)}", f" about the {lex.thing()}"))
        return f"{verb} {lex.person()}{tail}"
    if r < 0.58:
        article = rng.choice(("the", "my", "the", "a", f"{lex.name()}'s"))
        tail = rng.choice(("", "", "", "", f" from {lex.place()}", f" to {lex.person()}", f" at {lex.place()}", f" for {lex.person()}"))
        return f"{lex.pick(lx.VERBS_ON_OBJECT)} {article} {lex.thing()}{tail}"
    if r < 0.68:
        return f"buy {lex.rng.choice(('', lex.pick(lx.QUANTITIES) + ' '))}{grocery(lex)}" + rng.choice(("", "", f" for {lex.person()}"))
    if r < 0.76:
        return f"{rng.choice(('pick up', 'drop off', 'collect', 'fetch', 'meet'))} {lex.person()} {rng.choice(('from', 'at'))} {lex.place()}"
    if r < 0.82:
        return f"{rng.choice(('go to', 'drive to', 'be at', 'leave for', 'stop by'))} {lex.place()}"
    if r < 0.9:
        return f"{rng.choice(('book', 'cancel', 'prepare for', 'confirm', 'reschedule'))} {rng.choice(('the', 'my'))} {event(lex)}"
    if r < 0.95:
        return f"{rng.choice(('feed', 'brush', 'walk', 'check on', 'play with'))} {rng.choice(('the', 'my'))} {lex.pick(lx.PETS)}" + rng.choice(("", f" {lex.name()}"))
    return f"{lex.word()} {rng.choice(('the', 'my'))} {lex.thing()}"


def grocery(lex: lx.Lexicon) -> str:
    """One grocery."""
    return lex.word() if lex.invent() else lex.pick(lx.GROCERIES)


def groceries(lex: lx.Lexicon) -> str:
    """One to three groceries."""
    rng, r = lex.rng, lex.rng.random()
    first = (lex.pick(lx.QUANTITIES) + " " if rng.random() < 0.4 else "") + grocery(lex)
    if r < 0.6:
        return first
    return f"{first} and {grocery(lex)}" if r < 0.87 else f"{first} {grocery(lex)} and {grocery(lex)}"


def event(lex: lx.Lexicon) -> str:
    """An appointment without article."""
    rng = lex.rng
    base = f"{lex.word()} {rng.choice(('meeting', 'class', 'lesson', 'party', 'appointment', 'review'))}" if lex.invent() else lex.pick(lx.EVENTS)
    r = rng.random()
    if r < 0.3:
        return f"{base} with {lex.person()}"
    if r < 0.36:
        return f"{base} at {lex.place()}"
    return f"{base} about {lex.pick(lx.TOPICS)}" if r < 0.42 else base


def message(lex: lx.Lexicon) -> str:
    """What a message says."""
    rng, r = lex.rng, lex.rng.random()
    if r < 0.5:
        return lex.pick(lx.MESSAGES)
    if r < 0.65:
        return f"i'm at {lex.place()}"
    if r < 0.8:
        return f"the {lex.thing()} is {rng.choice(('ready', 'broken', 'here', 'lost', 'fixed', 'at home', 'too small'))}"
    return f"{rng.choice(('please', 'can you', 'i will', 'we should', 'i have to'))} {errand(lex)}"


def note(lex: lx.Lexicon) -> str:
    """What a note says."""
    rng, r = lex.rng, lex.rng.random()
    if r < 0.45:
        return lex.pick(lx.NOTES)
    if r < 0.65:
        return f"{lex.person()} likes {rng.choice((grocery(lex), lex.thing(), lex.pick(lx.COLOURS) + ' ' + lex.thing()))}"
    if r < 0.85:
        return f"the {lex.thing()} is (in|at|under) {lex.pick(lx.ROOMS)}".replace("(in|at|under)", rng.choice(("in", "at", "near")))
    return f"{lex.person()} lives at {lex.place()}"


def music(lex: lx.Lexicon) -> str:
    """Something to play."""
    r = lex.rng.random()
    if r < 0.4:
        return lex.pick(lx.GENRES)
    if r < 0.55:
        return lex.pick(lx.SONGS)
    artist = lex.name() if lex.rng.random() < 0.4 else f"{lex.pick(lx.ARTISTS_FIRST)} {lex.pick(lx.ARTISTS_LAST)}"
    if r < 0.75:
        return artist
    return f"{lex.pick(lx.SONGS) if not lex.invent() else lex.word() + ' ' + lex.word()} by {artist}"


TASK_MAKERS = {
    "reminder": errand, "event": event, "call": lambda lex: lex.person(), "shopping": groceries, "todo": errand,
    "weather": lambda lex: lex.city(), "music": music, "navigation": lambda lex: lex.place(),
}


def _thing_to_cancel(lex: lx.Lexicon) -> str:
    r = lex.rng.random()
    if r < 0.35:
        return lex.rng.choice(("alarm", "timer", "reminder", "meeting", "appointment", "alarms"))
    return f"reminder to {errand(lex)}" if r < 0.6 else event(lex)


def _fill(intent: str, template: str, lex: lx.Lexicon, when: When | None) -> tuple[list[tuple[str, str]], str, str | None, str | None]:
    """Fills a template; returns its (kind, text) parts, the task, the time and the time as an adverb."""
    rng = lex.rng
    pick = {
        "T": lambda: TASK_MAKERS[intent](lex), "P": lex.person, "M": lambda: message(lex), "N": lambda: note(lex), "R": lambda: lex.pick(lx.ROOMS),
        "C": lambda: lex.pick(lx.COLOURS), "G": lambda: f"{rng.choice((16, 17, 18, 19, 20, 21, 22, 23, 24, 'nineteen', 'twenty', 'twenty one', 'eighteen'))} degrees",
        "D": lambda: duration(rng), "X": lambda: rng.choice((grocery(lex), "the " + grocery(lex), lex.thing(), "the " + lex.thing())),
        "K": lambda: _thing_to_cancel(lex), "Q": lambda: lex.pick(lx.QUESTIONS),
    }
    if intent == "lights":
        pick["N"] = lambda: str(rng.choice((10, 20, 25, 30, 40, 50, 60, 70, 80, 90, "fifty", "twenty", "thirty", "eighty")))
    parts, values = [], {}
    for piece in re.split(r"(\{[A-Z]\})", template):
        if re.fullmatch(r"\{[A-Z]\}", piece):
            kind = piece[1]
            values[kind] = when.adverb if kind == "W" else when.bare if kind == "B" else pick[kind]()
            parts.append(("W" if kind in "WB" else "T", values[kind]))
        elif piece.strip():
            parts.append(("-", piece.strip()))
    at = values.get("W") or values.get("B")
    adverb = when.adverb if when and at else None
    if adverb and "B" in values and adverb.split()[0] in ("by", "around", "before", "after"):
        adverb = f"at {at}"
    if intent == "timer":
        at = values["D"]
        adverb, task = f"for {at}", values.get("X", "timer")
    elif intent == "message":
        task = f"{values['P']}: {values['M']}"
    elif intent == "alarm":
        task = "wake up"
    elif intent == "note":
        task = values["N"]
    elif intent in ("lights", "heating"):
        # The order itself is the task: everything but the time.
        task = " ".join(text for kind, text in parts if kind != "W")
    elif intent == "cancel":
        task = values["K"]
    elif intent == "other":
        task = values["Q"]
    else:
        task = values.get("T", "weather")
    return parts, task, at, adverb


def _noisy(parts: list[tuple[str, str]], rng: random.Random, share: float) -> str:
    """Joins parts, with filler words between them in `share` of the requests."""
    if rng.random() >= share:
        return " ".join(text for _, text in parts)
    out: list[str] = []
    for kind, text in parts:
        if rng.random() < 0.4:
            out.append(rng.choice(FILLERS if kind != "T" else FILLERS[:5]))
        words = text.split()
        if len(words) > 2 and rng.random() < 0.15:
            words.insert(rng.randint(1, len(words) - 1), rng.choice(FILLERS[:4]))
        out.extend(words)
    return " ".join(out)


def _written(text: str, intent: str, rng: random.Random) -> str:
    """Gives a request a capital and a full stop or question mark."""
    text = text[0].upper() + text[1:]
    text = re.sub(r"\bi\b", "I", text)
    question = intent in ("weather", "other") or text.split()[0].lower() in ("can", "could", "would", "will", "what's", "how", "is", "where")
    return text + ("?" if question else rng.choice((".", ".", ".", "", "!")))


def draw_request(rng: random.Random, new_phrasing: bool = False, new_fillers: bool = False, made_up: float = 0.3, noise: float = 0.15) -> Request:
    """One request; `new_phrasing` and `new_fillers` choose the held-out side of each split."""
    intent = rng.choices(INTENTS, [WEIGHTS[i] for i in INTENTS])[0]
    lex = lx.Lexicon(rng, new_fillers, made_up)
    when = draw_when(rng, new_fillers)
    template = expand(rng.choice((HELD_OUT if new_phrasing else TRAIN)[intent]), rng)
    if rng.random() < 0.22 and intent not in TIMELESS and intent != "alarm":
        # A request without a time.
        template = " ".join(re.sub(r"(for |on |block )?\{[WB]\}", "", template).split())
    if when.days and "{W}" in template and intent in ("reminder", "event", "todo", "call") and template.endswith("{W}") and rng.random() < 0.25:
        # The time in two places: "tomorrow remind me to call mum at six".
        front = When(when.days, when.days)
        parts, task, _, _ = _fill(intent, template[: -len("{W}")].strip(), lex, front)
        parts = [("W", when.days), *parts, ("W", when.clock)]
        at = adverb = f"{when.days} {when.clock}"
    else:
        parts, task, at, adverb = _fill(intent, template, lex, when)
    if intent != "other" or rng.random() < 0.3:
        openers = HELD_OUT_OPENERS if new_phrasing and rng.random() < 0.3 else OPENERS
        closers = HELD_OUT_CLOSERS if new_phrasing and rng.random() < 0.3 else CLOSERS
        if rng.random() < 0.4:
            first = template.split()[0]
            if openers is OPENERS and first not in NOT_IMPERATIVE and first[0] not in "{0123456789" and rng.random() < 0.6:
                openers = ASKING
            parts = [("-", rng.choice(openers)), *parts]
        if rng.random() < 0.2:
            parts = [*parts, ("-", rng.choice(closers))]
    style = rng.random()
    text = _noisy(parts, rng, noise)
    if style < 0.55:
        # What a speech recogniser without casing hands over.
        text, task = text.lower(), task.lower()
        at, adverb = at and at.lower(), adverb and adverb.lower()
    elif style < 0.9:
        text = _written(text, intent, rng)
        task = re.sub(r"\bi\b", "I", task)
    return Request(text, intent, task, at, adverb)
