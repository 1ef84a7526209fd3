"""Owns which tokens `convert` may say next: the form of its answer, and words of the request.

The same rules as the server's grammar (`src/engine/grammar`), for training under it: a step at which only one continuation is
allowed teaches nothing, and what the grammar forbids need not be unlearnt. So all of the adapter's little room goes to choices.
"""

import re

from tokenizers import Tokenizer

INTENTS = ["add_task", "set_reminder", "create_event", "complete_task", "delete_task", "list_tasks", "unknown"]
EDGES = "\"'“”‘’([{<)]}>,.!?;:…-"


def bounds(text: str) -> tuple[list[int], set[int]]:
    """Where words begin and end, without what surrounds them."""
    starts, ends = [], set()
    for word in re.finditer(r"\S+", text):
        inner = word.group().strip(EDGES)
        if inner:
            left = len(word.group()) - len(word.group().lstrip(EDGES))
            starts.append(word.start() + left)
            end = word.start() + left + len(inner)
            ends.add(end)
            if re.search(r".['’]s$", inner):
                ends.add(end - 2)  # "tomorrow's", "the tax return's gone in"
    return starts, ends


class Form:
    """The answers that one text allows; states are (kind, ...) tuples, `left` the characters that follow from one."""

    def __init__(self, text: str):
        self.text = text
        self.starts, self.ends = bounds(text)
        self.known: dict = {}

    def begin(self) -> frozenset:
        """Before the first character."""
        return frozenset([("literal", '{"intent":"', 0, "intent")])

    def after(self, state: tuple) -> list[tuple]:
        """States with a next character that a finished one stands for."""
        name = state[3]
        if name == "intent":
            return [("literal", f'{intent}","task":', 0, "task" if intent not in ("list_tasks", "unknown") else intent) for intent in INTENTS]
        if name == "task":
            return [("literal", 'null,"when":', 0, "when"), *self.opened("task")]
        if name == "list_tasks":
            return [("literal", 'null,"when":', 0, "when")]
        if name == "unknown":
            return [("literal", 'null,"when":null}', 0, "end")]
        if name == "when":
            return [("literal", "null}", 0, "end"), *self.opened("when")]
        if name.startswith("again"):
            return [("run", "second", start, False) for start in self.starts if start > int(name[5:])]
        if name in ("task run", "when run"):
            return [("run", name[:4], start, False) for start in self.starts]
        return [("end",)]

    def opened(self, what: str) -> list[tuple]:
        """A string begins, where there is a word to put in."""
        return [("literal", quote, 0, f"{what} run") for quote in ('"', '" ')] if self.starts else []

    def ready(self, states) -> frozenset:
        """The same with every finished literal and every word's end followed."""
        out, todo = set(), list(states)
        while todo:
            state = todo.pop()
            if state in out:
                continue
            if state[0] == "literal" and state[2] == len(state[1]):
                todo += self.after(state)
                continue
            out.add(state)
            if state[0] == "run" and state[3] and state[2] in self.ends:
                todo += self.closings(state[1], state[2])
        return frozenset(out)

    def step(self, states: frozenset, character: str) -> frozenset:
        """After one more character; empty where it is not allowed."""
        key = (states, character)
        if key not in self.known:
            out = []
            for state in states:
                if state[0] == "literal" and state[1][state[2]] == character:
                    out.append(("literal", state[1], state[2] + 1, state[3]))
                elif state[0] == "run" and state[2] < len(self.text) and self.text[state[2]] == character:
                    out.append(("run", state[1], state[2] + 1, True))
            self.known[key] = self.ready(out)
        return self.known[key]

    def forced(self, states: frozenset, most: int) -> int:
        """Characters that can only be as they are, counted up to `most`."""
        for count in range(most):
            following = self.characters(states)
            if len(following) != 1:
                return count
            states = self.step(states, next(iter(following)))
        return most

    def characters(self, states: frozenset) -> set[str]:
        """Allowed next characters."""
        out = set()
        for state in states:
            if state[0] == "literal":
                out.add(state[1][state[2]])
            elif state[0] == "run" and state[2] < len(self.text) and not (state[3] and state[2] in self.last_ends()):
                out.add(self.text[state[2]])
        return out

    def last_ends(self) -> set[int]:
        """Where no word follows: a run cannot go on."""
        return {max(self.ends)} if self.ends else set()

    def closings(self, kind: str, end: int) -> list[tuple]:
        """What may follow the end of a run."""
        if kind == "task":
            return [("literal", '","when":', 0, "when")]
        more = kind == "when" and any(start > end for start in self.starts)
        return [("literal", '"}', 0, "end"), *([("literal", " ", 0, f"again{end}")] if more else [])]


class Vocabulary:
    """Tokens by what they say."""

    def __init__(self, tokenizer: Tokenizer):
        self.tokenizer = tokenizer
        said = [tokenizer.decode([i], skip_special_tokens=False) for i in range(tokenizer.get_vocab_size())]
        special = {i for i, token in enumerate(said) if token.startswith("<|") and token.endswith("|>")}
        self.said = said
        self.tree: dict = {}
        for i, text in enumerate(said):
            if text and "\ufffd" not in text and i not in special:
                branch = self.tree
                for character in text:
                    branch = branch.setdefault(character, {})
                branch["id"] = i

    def allowed(self, form: Form, states: frozenset) -> list[int]:
        """Tokens that keep the answer in its form."""
        out, todo = [], [(states, self.tree)]
        while todo:
            reached, branch = todo.pop()
            for character in form.characters(reached):
                if further := branch.get(character):
                    todo.append((form.step(reached, character), further))
                    if "id" in further:
                        out.append(further["id"])
        return sorted(out)

    def choices(self, text: str, answer: list[int]) -> list[tuple[int, list[int]]] | None:
        """For each token of an answer where something is to be chosen: its index, and what is allowed. None for another form."""
        form, out = Form(text), []
        states = form.ready(form.begin())
        for index, token in enumerate(answer):
            said = self.said[token]
            # The server spells out what is forced but for the last token, which may merge with what is chosen next.
            if form.forced(states, len(said) + 1) <= len(said):
                allowed = self.allowed(form, states)
                if token not in allowed:
                    return None
                if len(allowed) > 1:
                    out.append((index, allowed))
            for character in said:
                states = form.step(states, character)
                if not states:
                    return None
        return out if ("end",) in states else None
