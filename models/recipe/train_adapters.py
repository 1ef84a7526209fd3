"""Owns the training of the LoRA adapters on the frozen base with PEFT.

Each adapter is a line in ADAPTERS: its rank, its target matrices, how it answers and how its
weights are stored. Writes PEFT directories in transformers' layout.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # The workers are the parallelism.

import argparse
import json
import math
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import LlamaForCausalLM

from corpus import IM_END, SYSTEM, prompt
from grammar import Request, draw_request
from replies import as_json, reply, small_talk
from train_base import Workers, packed_loss

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
MLP = ["gate_proj", "up_proj", "down_proj"]


@dataclass(frozen=True)
class Adapter:
    """What one adapter is made of; `lr` is the peak learning rate, `store` the type of the saved weights."""

    rank: int
    alpha: int
    targets: list[str]
    lr: float
    store: torch.dtype


ADAPTERS = {
    "convert": Adapter(16, 32, ATTENTION + MLP, 2e-3, torch.float16),
    "pirate": Adapter(12, 24, ["q_proj", "v_proj", "o_proj", "down_proj"], 3e-3, torch.float16),
    "terse": Adapter(4, 8, ATTENTION, 4e-3, torch.float32),
    "butler": Adapter(8, 16, MLP, 2e-3, torch.float16),
}


def example(name: str, rng: random.Random) -> tuple[str, str]:
    """A prompt and the answer that the adapter has to give."""
    system = rng.choice(SYSTEM) if rng.random() < 0.2 else None
    if name == "convert":
        if rng.random() < 0.04:
            said = small_talk("plain", rng)[0].lower().rstrip(".!?")
            request = Request(said, "other", said, None, None)
        else:
            request = draw_request(rng)
        return prompt(request.text, system), as_json(request)
    if rng.random() < 0.12:
        said, answer = small_talk(name, rng)
        return prompt(said, system), answer
    request = draw_request(rng)
    return prompt(request.text, system), reply(request, name, rng)


def batches(name: str, tokenizer: Tokenizer, rng: random.Random, count: int, small: int) -> list:
    """`count` examples in small batches of similar length: (tokens, weights), only answers weighted."""
    encoded = []
    for _ in range(count):
        asked, answer = example(name, rng)
        head, tail = tokenizer.encode(asked).ids, tokenizer.encode(answer + IM_END).ids
        encoded.append((head + tail, len(head)))
    encoded.sort(key=lambda e: len(e[0]))
    answers = sum(len(ids) - head for ids, head in encoded)
    out = []
    for at in range(0, count, small):
        part = encoded[at : at + small]
        length = max(len(ids) for ids, _ in part)
        tokens = torch.zeros(len(part), length, dtype=torch.long)
        weight = torch.zeros(len(part), length - 1)
        for row, (ids, head) in enumerate(part):
            tokens[row, : len(ids)] = torch.tensor(ids)
            weight[row, head - 1 : len(ids) - 1] = 1.0 / answers
        out.append((tokens, weight))
    return out


def train(name: str, base: Path, tokenizer: Tokenizer, target: Path, minutes: float, steps: int, threads: int, per_step: int, seed: int) -> dict:
    """Trains one adapter and saves it; stops after `minutes` or, where given, `steps`."""
    spec, rng = ADAPTERS[name], random.Random(f"{seed}-{name}")
    torch.manual_seed(seed)
    model = get_peft_model(
        LlamaForCausalLM.from_pretrained(base, attn_implementation="eager", dtype=torch.float32),
        LoraConfig(r=spec.rank, lora_alpha=spec.alpha, target_modules=spec.targets, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM"),
    )
    workers = Workers(model, threads)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=spec.lr, betas=(0.9, 0.98), weight_decay=0.0)
    begun, step, smooth = time.time(), 0, None
    while (done := step / steps if steps else (time.time() - begun) / 60 / minutes) < 1:
        optimiser.param_groups[0]["lr"] = spec.lr * min(1.0, (step + 1) / 20) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * done)))
        loss = workers.gradients(batches(name, tokenizer, rng, per_step, per_step // 4), packed_loss)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        step += 1
        smooth = loss if smooth is None else 0.95 * smooth + 0.05 * loss
        if step % 20 == 0:
            print(f"{name} step {step} minutes {(time.time() - begun) / 60:.2f} loss {smooth:.4f}", flush=True)
    model.save_pretrained(target)
    (target / "README.md").unlink(missing_ok=True)
    config = json.loads((target / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "switchyard-base"
    config["target_modules"] = spec.targets
    (target / "adapter_config.json").write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
    weights = target / "adapter_model.safetensors"
    save_file({k: v.to(spec.store).contiguous() for k, v in load_file(weights).items()}, weights, metadata={"format": "pt"})
    weights.chmod(0o644)
    return {"name": name, "steps": step, "examples": step * per_step, "minutes": round((time.time() - begun) / 60, 1), "loss": round(smooth, 4),
            "parameters": sum(p.numel() for p in trained), "bytes": weights.stat().st_size}


def main() -> None:
    """Trains the named adapters one after the other."""
    args = argparse.ArgumentParser()
    args.add_argument("work", type=Path)
    args.add_argument("names", nargs="*", default=list(ADAPTERS))
    args.add_argument("--minutes", type=float, default=0.0)
    args.add_argument("--steps", type=int, default=0)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--per-step", type=int, default=48)
    args.add_argument("--seed", type=int, default=14)
    args = args.parse_args()
    tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
    for name in args.names:
        record = train(name, args.work / "base", tokenizer, args.work / "adapters" / name, args.minutes, args.steps, args.threads, args.per_step, args.seed)
        (args.work / f"adapter-{name}.json").write_text(json.dumps(record) + "\n")
        print(record, flush=True)


if __name__ == "__main__":
    main()
