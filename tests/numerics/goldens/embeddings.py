"""What transformers and peft give as a text's embedding: last hidden states of the golden bases, pooled, of length 1."""

import json
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from .text import PROMPTS

# Base: adapter and texts. Phi-3's short ones have other rotary divisors in transformers than on a server of its whole context.
BASES = {name: ("patterns", ["harbour", "list", "short"]) for name in ["llama3", "llama-linear", "mistral", "qwen2"]}
BASES |= {name: ("r6-all", ["harbour", "short"]) for name in ["qwen3", "gemma2", "gemma3", "phi2"]}
BASES["phi3"] = ("r6-all", ["harbour"])


def unit(vector):
    return [round(value, 7) for value in (vector / vector.norm()).tolist()]


def pooled(model, tokenizer, text):
    tokens = tokenizer.encode(text)
    with torch.no_grad():
        states = model(torch.tensor([tokens]), output_hidden_states=True).hidden_states[-1][0].double()
    return {"text": text, "tokens": len(tokens), "mean": unit(states.mean(0)), "last": unit(states[-1])}


def write(out: Path, models: Path):
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    expected = {}
    for name, (adapter, texts) in BASES.items():
        folder = models / name
        load = lambda: AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        adapted = PeftModel.from_pretrained(load(), folder / "adapters" / adapter).eval()
        of = lambda model: [pooled(model, tokenizer, PROMPTS[text]) for text in texts]
        expected[name] = {"base": of(load()), adapter: of(adapted)}
        moved = max(abs(a - b) for a, b in zip(expected[name]["base"][0]["mean"], expected[name][adapter][0]["mean"]))
        assert moved > 0.02, (name, moved)
    (out / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")
