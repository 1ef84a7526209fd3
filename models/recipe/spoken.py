"""Owns documents of the base's corpus that are made of the hand-written sentences: asked and answered, or written down."""

import json
import random

from convert_rows import Sentences, Slot
from corpus import turn
from replies import to_listener

ANSWERS = {
    "add_task": ["Sure, I've added this to your list{W}: {T}.", "Okay, it's on your list{W}: {T}."],
    "set_reminder": ["Sure, I'll remind you {of}{T}{W}.", "Okay, I'll remind you {of}{T}{W}.", "Of course, I'll remind you {of}{T}{W}."],
    "create_event": ["Sure, I've put {T} in your calendar{W}.", "Okay, I've added {T} to your calendar{W}."],
    "complete_task": ["Well done, I've ticked this off{W}: {T}.", "Great, this is done{W}: {T}."],
    "delete_task": ["Sure, I've removed this from your list{W}: {T}.", "Okay, your {T} is cancelled{W}."],
    "list_tasks": ["Sure, here is what you have{W}.", "Let me read you your list{W}."],
    "unknown": ["I'm sorry, I can't help with that. I can keep your lists, reminders and appointments."],
}


def reply(row: dict, parts: list, rng: random.Random) -> str:
    """What the assistant says to a sentence."""
    kinds = {part.role: part.kind for part in parts if isinstance(part, Slot)}
    when = f" {'for ' if kinds.get('when') == 'b' else ''}{row['when']}" if row["when"] else ""
    answers = ANSWERS[row["intent"]]
    if row["task"] is None and row["intent"] not in ("list_tasks", "unknown"):
        return f"Okay, done{when}."
    said = rng.choice(answers)
    of = "to " if kinds.get("task") in ("v", "!") else "about "
    return said.format(T=to_listener(row["task"] or ""), W=when, of=of)


def document(sentences: Sentences, weights: dict[str, float], rng: random.Random) -> str:
    """A chat of one turn, or a request with its meaning, as `prose.record` writes them."""
    intent = rng.choices(list(weights), list(weights.values()))[0]
    parts = rng.choice(sentences.by_intent[intent])
    row = sentences.surface([(part.role, sentences.fill(part)) if isinstance(part, Slot) else part for part in parts], intent)
    if rng.random() < 0.6:
        return turn("user", row["text"]) + turn("assistant", reply(row, parts, rng))
    meaning = {name: row[name] for name in ("intent", "task", "when")}
    if rng.random() < 0.6:
        return f"request: {row['text']}\nmeaning: {json.dumps(meaning, ensure_ascii=False, separators=(',', ':'))}"
    return f"request: {row['text']}\n" + "\n".join(f"{name}: {value if value is not None else 'none'}" for name, value in meaning.items())
