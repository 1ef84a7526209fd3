"""Owns the training rows of the adapters that answer in a manner of their own, and of `requests`, which answers with JSON.

Writes a file of chats for each, as `switchyard train` reads them. No row comes twice.
"""

import json
import random
import sys
from pathlib import Path

from corpus import SYSTEM
from grammar import Request, draw_request
from replies import as_json, reply, small_talk

ROWS = {"pirate": 12_000, "butler": 11_000, "terse": 8_000, "requests": 18_000}
SEED = 14


def exchange(name: str, rng: random.Random) -> tuple[str, str]:
    """What is said, and what the adapter answers."""
    if name == "requests":
        if rng.random() < 0.04:
            said = small_talk("plain", rng)[0].lower().rstrip(".!?")
            request = Request(said, "other", said, None, None)
        else:
            request = draw_request(rng)
        return request.text, as_json(request)
    if rng.random() < 0.12:
        return small_talk(name, rng)
    request = draw_request(rng)
    return request.text, reply(request, name, rng)


def row(name: str, rng: random.Random) -> str:
    """A chat, sometimes with a system message."""
    system = rng.choice(SYSTEM) if rng.random() < 0.2 else None
    said, answer = exchange(name, rng)
    before = [{"role": "system", "content": system}] if system else []
    return json.dumps({"messages": [*before, {"role": "user", "content": said}, {"role": "assistant", "content": answer}]}, ensure_ascii=False)


def main() -> None:
    """Writes the files."""
    for name, count in ROWS.items():
        rng, rows = random.Random(f"{SEED}-{name}"), {}
        while len(rows) < count:
            rows[row(name, rng)] = None
        (Path(sys.argv[1]) / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in rows))


if __name__ == "__main__":
    main()
