"""Owns the plain text: simple sentences, small stories and lists that make the base a language model.

All of it is generated here from hand-written patterns. Knows nothing of chat or requests.
"""

import json
import random

import lexicon as lx
from grammar import draw_request, errand, event, expand, groceries
from replies import as_json
from times import DAYS, MONTHS, draw_when

ADJECTIVES = ("small big old new red green heavy quiet bright broken empty clean strange lovely cold warm soft wooden yellow tiny famous "
              "simple dusty wet shiny cheap expensive friendly careful early late hungry tired happy calm busy proud").split()
FEELINGS = "happy tired proud glad sad surprised nervous hungry cold calm thankful bored curious relieved".split()
MOVES = ["walked to", "drove to", "went to", "cycled to", "took the bus to", "hurried to", "came back from", "waited at"]
PAST = ["bought", "found", "lost", "forgot", "repaired", "carried", "sold", "borrowed", "cleaned", "painted", "wrapped", "dropped", "kept", "returned"]
SENTENCES = [
    "{N} (bought|found|lost|sold|repaired) (a|the) {A} {O} {D}.", "{N} (walked|drove|cycled) to {L} because {N2} was waiting there.",
    "The {O} in {R} is {A} and {A2}.", "{D}, {N} and {N2} met at {L}.", "{N} likes {G}, but {N2} prefers {G2}.", "It was a {A} {Y} and {N} felt {F}.",
    "{N} asked {N2} to {E}.", "\"I have to {E} {D},\" said {N}.", "{N2} smiled and said thank you.", "There was (a|no) {A} {O} on the table.",
    "On {Y}, {N} usually goes to {L}.", "In {M} the days in {C} are {A}.", "{N} wrote a letter to {N2} about {T}.", "The {P} slept under the {O}.",
    "{N} forgot to {E}, so {N2} did it.", "Every (morning|evening) {N} drinks tea and reads about {T}.", "{N} gave {N2} {G} and a {A} {O}.",
    "The way from {C} to {L} takes an hour.", "When it rains, {N} stays in {R}.", "{N} is {F} because the {O} is {A} again.",
    "{N} has a {P} called {N2}.", "They talked about {T} until it was dark.", "The {A} {O} belongs to {N}.", "Nobody knew where the {O} was.",
    "{N} put the {O} in {R} and went to {L}.", "After the {V}, everybody was {F}.", "The {V} with {N} is {D}.", "Please bring {G} to {L}.",
]


def _sentence(template: str, lex: lx.Lexicon, cast: list[str]) -> str:
    rng = lex.rng
    values = {
        "N": cast[0], "N2": cast[1], "A": rng.choice(ADJECTIVES), "A2": rng.choice(ADJECTIVES), "O": lex.thing(), "L": lex.place(), "R": lex.pick(lx.ROOMS),
        "D": draw_when(rng, lex.held_out).adverb, "G": groceries(lex), "G2": groceries(lex), "Y": rng.choice(DAYS), "M": rng.choice(MONTHS), "F": rng.choice(FEELINGS),
        "E": errand(lex), "C": lex.city(), "T": lex.pick(lx.TOPICS), "P": lex.pick(lx.PETS), "V": event(lex),
    }
    text = expand(template, rng)
    for key, value in values.items():
        text = text.replace("{" + key + "}", value)
    return text[0].upper() + text[1:]


def story(rng: random.Random) -> str:
    """Three to seven sentences about two people."""
    lex = lx.Lexicon(rng, False, 0.2)
    cast = [lex.name(), lex.name()]
    lines = []
    for _ in range(rng.randint(3, 7)):
        if rng.random() < 0.3:
            cast.reverse()
        lines.append(_sentence(rng.choice(SENTENCES), lex, cast))
    return " ".join(lines)


def jotting(rng: random.Random) -> str:
    """A list, a plan for the day or a short dialogue."""
    lex = lx.Lexicon(rng, False, 0.2)
    r = rng.random()
    if r < 0.35:
        return "Shopping list:\n" + "\n".join(f"- {groceries(lex)}" for _ in range(rng.randint(2, 5)))
    if r < 0.7:
        return f"Plan for {rng.choice(DAYS)}:\n" + "\n".join(f"{i + 1}. {errand(lex)}" for i in range(rng.randint(2, 5)))
    one, two = lex.name(), lex.name()
    return f"{one}: Did you {errand(lex)}?\n{two}: Yes, I did.\n{one}: And the {lex.thing()}?\n{two}: It is in {lex.pick(lx.ROOMS)}."


def echo(rng: random.Random) -> str:
    """Made-up words said twice, which teaches copying."""
    lex = lx.Lexicon(rng, False, 0.5)
    words = [lex.word() if rng.random() < 0.6 else rng.choice((lex.thing(), lex.name())) for _ in range(rng.randint(3, 10))]
    text = " ".join(words)
    return rng.choice((f"say {text}: {text}", f"{text}\n{text}", f"\"{text}\" means \"{text}\"", f"repeat after me {text}. {text}."))


def record(rng: random.Random) -> str:
    """A request written down with its meaning, as JSON or as lines."""
    request = draw_request(rng)
    meaning = request.meaning()
    r = rng.random()
    if r < 0.6:
        return f"request: {request.text}\nmeaning: {as_json(request)}"
    if r < 0.9:
        return f"request: {request.text}\n" + "\n".join(f"{k}: {v if v is not None else 'none'}" for k, v in meaning.items())
    return json.dumps({"said": request.text, **meaning}, ensure_ascii=False, separators=(",", ":"))
