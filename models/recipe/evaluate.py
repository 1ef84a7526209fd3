"""Owns the measurements: held-out test rows, greedy answers and exact-match figures.

Runs on the float32 checkpoint or on the GGUF file read back, with any adapter.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from peft import PeftModel
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

import gguf_file
from corpus import END_OF_TEXT, IM_END, prompt
from grammar import draw_request

# split: (new phrasing, new fillers)
SPLITS = {"seen": (False, False), "new_phrasing": (True, False), "new_fillers": (False, True), "new_both": (True, True)}
FIELDS = ("intent", "task", "when")
SAMPLES = ["remind me to call mum tomorrow at six", "Add oat milk and bananas to the shopping list, please.", "wake me up at half past seven",
           "who are you"]


def known_requests(count: int = 200_000, seed: int = 16) -> set[str]:
    """Requests as training draws them, to keep chance repeats (such as "call mum") out of the test rows."""
    rng = random.Random(seed)
    return {draw_request(rng).text.lower().strip(".!?") for _ in range(count)}


def test_rows(split: str, count: int, known: set[str], seed: int = 15) -> list[dict]:
    """`count` different requests of a split with their meaning, none of them among the known."""
    rng, rows = random.Random(f"{seed}-{split}"), {}
    while len(rows) < count:
        request = draw_request(rng, *SPLITS[split])
        if split != "seen" and request.text.lower().strip(".!?") in known:
            continue
        rows.setdefault(request.text, {"input": request.text, "expected": request.meaning(), "split": split})
    return list(rows.values())


@torch.no_grad()
def answers(model, tokenizer: Tokenizer, prompts: list[str], most: int = 90, at_once: int = 64) -> list[str]:
    """Greedy answers, in the order of the prompts."""
    pad, stop = tokenizer.token_to_id(END_OF_TEXT), tokenizer.token_to_id(IM_END)
    ids = [tokenizer.encode(p).ids for p in prompts]
    order, out = sorted(range(len(ids)), key=lambda i: len(ids[i])), [""] * len(ids)
    for at in range(0, len(order), at_once):
        part = order[at : at + at_once]
        width = max(len(ids[i]) for i in part)
        tokens = torch.tensor([[pad] * (width - len(ids[i])) + ids[i] for i in part])
        mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in part])
        made = model.generate(input_ids=tokens, attention_mask=mask, max_new_tokens=most, do_sample=False, eos_token_id=stop, pad_token_id=pad)
        for i, row in zip(part, made[:, width:].tolist()):
            out[i] = tokenizer.decode(row[: row.index(stop)] if stop in row else row, skip_special_tokens=False)
    return out


def score(rows: list[dict], said: list[str]) -> dict:
    """Shares of valid JSON, exact matches and right fields."""
    hits, wrong = dict.fromkeys(("valid", "exact", *FIELDS), 0), []
    for row, text in zip(rows, said):
        try:
            got = json.loads(text)
        except ValueError:
            got = None
        if isinstance(got, dict):
            hits["valid"] += 1
            for field in FIELDS:
                hits[field] += got.get(field, "") == row["expected"][field]
        hits["exact"] += got == row["expected"]
        if got != row["expected"]:
            wrong.append((row["input"], row["expected"], text))
    return {k: round(100 * v / len(rows), 1) for k, v in hits.items()} | {"rows": len(rows), "wrong": wrong}


def load(base: Path, adapter: Path | None):
    """The base from a checkpoint folder or a .gguf file, with an adapter if given."""
    if base.suffix == ".gguf":
        model = gguf_file.read(base)
    else:
        model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32, attn_implementation="eager")
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, autocast_adapter_dtype=True).float()
    return model.eval()


def main() -> None:
    """Prints figures of `requests`, samples of the others; `--write` renews the committed test file."""
    args = argparse.ArgumentParser()
    args.add_argument("tokenizer", type=Path)
    args.add_argument("base", type=Path)
    args.add_argument("adapters", type=Path)
    args.add_argument("--rows", type=int, default=400)
    args.add_argument("--write", type=Path)
    args.add_argument("--file", type=Path)
    args.add_argument("--samples", action="store_true")
    args.add_argument("--errors", type=int, default=0)
    args = args.parse_args()
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    if args.write:
        known = known_requests()
        rows = [row for split in ("new_phrasing", "new_fillers", "new_both") for row in test_rows(split, 70, known)]
        args.write.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
        return
    if args.samples:
        for name in [None, *sorted(p.name for p in args.adapters.iterdir())]:
            model = load(args.base, args.adapters / name if name else None)
            for asked, answer in zip(SAMPLES, answers(model, tokenizer, [prompt(s) for s in SAMPLES])):
                print(f"{name or 'base'} | {asked} | {answer}")
        return
    model = load(args.base, args.adapters / "requests")
    if args.file:
        sets = {"file": [json.loads(line) for line in args.file.read_text().splitlines()]}
    else:
        known = known_requests()
        sets = {split: test_rows(split, args.rows, known) for split in SPLITS}
    for split, rows in sets.items():
        result = score(rows, answers(model, tokenizer, [prompt(row["input"]) for row in rows]))
        for wrong in result.pop("wrong")[: args.errors]:
            print("  WRONG", *wrong, sep="\n    ")
        print(split, json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
