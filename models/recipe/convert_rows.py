"""Owns the training rows of `convert`: hand-written sentences, their slots filled again and again.

`sentences/*.tsv` hold sentences with marked slots, `sentences/*.txt` what may stand in them (see `sentences/README.md`).
A tenth of the sentences and of the fillings is never trained on: the calibration of confidences, and choices, are made there.
"""

import argparse
import json
import random
import re
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import lexicon as lx
from tokenizers import Tokenizer

from convert_grammar import Vocabulary
from corpus import IM_END, prompt
from grammar import draw_request, errand, event, groceries
from times import draw_when

HERE = Path(__file__).parent / "sentences"
SLOT = re.compile(r"([{\[])(?:([a-z!]):)?([^}\]]*)[}\]]")
HELD_OUT_ONE_IN = 10
AS_IT_STANDS = 0.45  # What was written together belongs together; other fillings teach the words around them.
OPENERS = ["hey", "hi", "ok", "okay so", "so", "hello", "right", "listen", "oh", "oh and", "and", "please", "alright", "ok then", "hey there",
           "yeah", "quickly", "one more thing", "before i forget", "also", "well", "now", "assistant", "computer", "good morning"]
CLOSERS = ["please", "thanks", "thank you", "cheers", "for me", "if you can", "okay", "ta", "would you", "thanks a lot", "if you don't mind", "ok",
           "please and thanks", "will you", "thanks so much", "yeah", "right", "if that's alright", "when you get a chance"]
SLIPS = [("to", "too"), ("for", "four"), ("two", "to"), ("by", "buy"), ("buy", "by"), ("there", "their"), ("i've", "ive"), ("don't", "dont"),
         ("what's", "whats"), ("i'm", "im"), ("you're", "your"), ("it's", "its"), ("can't", "cant"), ("let's", "lets"), ("eight", "ate"),
         ("our", "are"), ("week", "weak"), ("meet", "meat"), ("i'd", "id"), ("write", "right"), ("flour", "flower"), ("remind", "re mind")]
UNKNOWN_OF_OLD = {"weather", "lights", "music", "heating", "navigation", "other"}


@dataclass(frozen=True)
class Slot:
    """A marked part of a sentence; `kind` says what else may stand there."""

    role: str
    kind: str
    text: str


def held_out(text: str) -> bool:
    """Whether a sentence or a filling is kept away from training."""
    return sha256(text.lower().encode()).digest()[0] % HELD_OUT_ONE_IN == 0


def parse(line: str) -> tuple[str, list]:
    """An intent and the parts of its sentence: strings and slots."""
    intent, sentence = line.rstrip("\n").split("\t", 1)
    parts, at = [], 0
    for found in SLOT.finditer(sentence):
        if found.start() > at:
            parts.append(sentence[at : found.start()])
        kind = found[2] or "!"
        parts.append(Slot("task" if found[1] == "{" else "when", kind, found[3]))
        at = found.end()
    if at < len(sentence):
        parts.append(sentence[at:])
    return intent, parts


class Sentences:
    """All sentences and fillings of one side of the split."""

    def __init__(self, side: bool, rng: random.Random):
        self.side, self.rng = side, rng
        read = lambda path: [line for line in path.read_text().splitlines() if line.strip()]
        lines = [line for path in sorted(HERE.glob("*.tsv")) for line in read(path)]
        lines += [f"unknown\t{line}" for line in read(HERE / "u.txt")]
        self.by_intent: dict[str, list] = {}
        for line in lines:
            if held_out(line) == side:
                intent, parts = parse(line)
                self.by_intent.setdefault(intent, []).append(parts)
        self.fillings = {kind: [f for f in read(HERE / f"{kind}.txt") if held_out(f) == side] for kind in "vgdnetbl"}
        for lines in self.by_intent.values():
            for parts in lines:
                for part in parts:
                    if isinstance(part, Slot) and part.kind in self.fillings and held_out(part.text) == side:
                        self.fillings[part.kind].append(part.text)
        self.lexicon = lx.Lexicon(rng, side, 0.25)

    def time(self, kind: str) -> str:
        """A time phrase, hand-written or put together from parts."""
        if kind == "l" or self.rng.random() < 0.6:
            return self.rng.choice(self.fillings[kind])
        when = draw_when(self.rng, self.side)
        return when.adverb if kind == "t" else when.bare

    def strange(self, text: str) -> str:
        """The same with a word that nobody has seen."""
        words = text.split()
        at = self.rng.randrange(len(words))
        if len(words) > 1 and words[at] in {"the", "a", "to", "for", "of", "and", "with", "at", "in", "on"}:
            at = len(words) - 1
        words[at] = lx.pseudo_word(self.rng, self.side)
        return " ".join(words)

    def fill(self, slot: Slot) -> str:
        """What stands in a slot this time."""
        if slot.kind == "!" or self.rng.random() < AS_IT_STANDS:
            return slot.text
        if slot.role == "when":
            return self.time(slot.kind)
        made = {"v": errand, "n": groceries, "e": event}.get(slot.kind)
        if made and self.rng.random() < 0.25:
            text = re.sub(r"^(a|an|the|my|our|some|his|her) ", "", made(self.lexicon))
        else:
            text = self.rng.choice(self.fillings[slot.kind])
        r = self.rng.random()
        if r < 0.12:
            text = self.strange(text)
        elif r < 0.16 and slot.kind == "n":
            text = f"{text} and {self.rng.choice(self.fillings['n'])}"
        elif r < 0.20 and slot.kind == "v":
            text = f"{text} and {self.rng.choice(self.fillings['v'])}"
        return text

    def draw(self, weights: dict[str, float]) -> dict:
        """One row: what is said, and what it means."""
        rng = self.rng
        intent = rng.choices(list(weights), list(weights.values()))[0]
        if intent == "unknown" and rng.random() < 0.15:
            old = draw_request(rng, new_phrasing=self.side, new_fillers=self.side, noise=0.0)
            if old.intent in UNKNOWN_OF_OLD:
                return self.surface([old.text], intent)
        return self.surface([(part.role, self.fill(part)) if isinstance(part, Slot) else part for part in rng.choice(self.by_intent[intent])], intent)

    def surface(self, parts: list, intent: str) -> dict:
        """Casing, punctuation, slips of a speech recogniser, openers and closers; labels follow the text."""
        rng = self.rng
        parts = [("", part) if isinstance(part, str) else part for part in parts]
        if rng.random() < 0.14:
            opener = rng.choice(OPENERS)
            parts = [("", opener + rng.choice((" ", " ", ", "))), *parts]
        if rng.random() < 0.10 and not parts[-1][1].rstrip().endswith(("?", "!")):
            last_role, last = parts[-1]
            parts = [*parts[:-1], (last_role, last.rstrip(" .") if not last_role else last), ("", rng.choice((" ", " ", ", ")) + rng.choice(CLOSERS))]
        style = rng.random()
        if style < 0.55:
            parts = [(role, re.sub(r"[,;!?]|\.(?=\s|$)", "", text).lower()) for role, text in parts]
            if rng.random() < 0.12:
                parts = [(role, text.replace("'", "").replace("’", "")) for role, text in parts]
            if rng.random() < 0.10:
                slip = rng.choice(SLIPS)
                parts = [(role, re.sub(rf"\b{re.escape(slip[0])}\b", slip[1], text)) for role, text in parts]
        elif style < 0.75:
            parts[0] = (parts[0][0], parts[0][1][:1].upper() + parts[0][1][1:])
            parts = [(role, re.sub(r"\bi\b", "I", text)) for role, text in parts]
            if not parts[-1][1].rstrip().endswith((".", "?", "!")):
                parts.append(("", rng.choice((".", ".", "", "!"))))
        text = "".join(text for _, text in parts)
        text = re.sub(r"\s+", " ", text).strip()
        task = next((label(part) for role, part in parts if role == "task"), None)
        when = " ".join(label(part) for role, part in parts if role == "when") or None
        return {"text": text, "intent": intent, "task": task, "when": when}


def label(text: str) -> str:
    """A span as it is labelled: without what surrounds its words."""
    return re.sub(r"\s+", " ", text).strip(" ,.!?;:")


WEIGHTS = {"add_task": 1.25, "set_reminder": 1.5, "create_event": 1.2, "complete_task": 0.85, "delete_task": 0.85, "list_tasks": 0.5, "unknown": 1.1}


def twice(text: str) -> str:
    """What `/convert` asks: the second time, each word is read by a model that knows what follows ("Repetition Improves Language Model
    Embeddings", https://arxiv.org/abs/2402.15449), and the first word has a space before it, too."""
    return f"{text}\n {text}"


def meaning(row: dict, before: str) -> str:
    """What the adapter has to answer, with `before` at the beginning of what it copies."""
    said = {k: before + row[k] if row[k] and k != "intent" else row[k] for k in ("intent", "task", "when")}
    return json.dumps(said, ensure_ascii=False, separators=(",", ":"))


def tokenized(row: dict, vocabulary: Vocabulary, whole: bool) -> dict | None:
    """A row as tokens: learnt are the steps at which the grammar leaves a choice, among what it allows; or, `whole`, all of the answer
    to the text said once. A space before what is copied makes its first token the one that stands in the text."""
    encode = vocabulary.tokenizer.encode
    end = vocabulary.tokenizer.token_to_id(IM_END)
    if whole:
        head, answer = encode(prompt(row["text"])).ids, encode(meaning(row, "")).ids
        return {"tokens": [*head, *answer, end], "weights": [0] * len(head) + [0.3] * (len(answer) + 1)}
    head, answer = encode(prompt(twice(row["text"]))).ids, encode(meaning(row, " ")).ids
    choices = vocabulary.choices(row["text"], answer)
    if choices is None:
        return None
    tokens = [*head, *answer, end]
    weights = [0] * len(tokens)
    for index, _ in choices:
        weights[len(head) + index] = 1
    return {"tokens": tokens, "weights": weights, "among": [[len(head) + index, allowed] for index, allowed in choices]}


def main() -> None:
    """Writes tokenized rows for `switchyard train`, or labelled rows of the held-out side."""
    args = argparse.ArgumentParser()
    args.add_argument("tokenizer", type=Path)
    args.add_argument("out", type=Path)
    args.add_argument("--rows", type=int, default=60_000)
    args.add_argument("--held-out", action="store_true", help="labelled rows of sentences and fillings that training never sees")
    args.add_argument("--whole", type=float, default=0.1, help="share of the rows that are learnt token by token, as a chat model answers")
    args.add_argument("--seed", type=int, default=31)
    args = args.parse_args()
    rng = random.Random(args.seed)
    sentences, vocabulary = Sentences(args.held_out, rng), Vocabulary(Tokenizer.from_file(str(args.tokenizer)))
    seen, left_out = set(), 0
    with args.out.open("w") as out:
        while len(seen) < args.rows:
            row = sentences.draw(WEIGHTS)
            if row["text"] in seen:
                continue
            made = row if args.held_out else tokenized(row, vocabulary, rng.random() < args.whole)
            if made is None:
                left_out += 1
                continue
            seen.add(row["text"])
            out.write(json.dumps(made, ensure_ascii=False, separators=(",", ":")) + "\n")
    print(f"{len(seen)} rows, {left_out} left out: they have what the grammar does not allow")


if __name__ == "__main__":
    main()
