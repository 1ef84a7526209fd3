"""Owns the second training of the base, together with `convert`'s LoRA: all weights learn from both what the base says without the
LoRA and what it chooses with it, so that it knows how people ask before any adapter is trained.

The base begins as a trained one of half the layers: each layer is followed by a copy whose output is zero, so that nothing changes at
first (block expansion: "LLaMA Pro", https://arxiv.org/abs/2401.02415). Writes both as checkpoints.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # The workers are the parallelism.

import argparse
import copy
import json
import math
import multiprocessing
import random
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn.functional import cross_entropy, linear
from transformers import LlamaForCausalLM

import convert_rows
import spoken
from convert_grammar import Vocabulary
from corpus import END_OF_TEXT
from evaluate import load
from train_base import Workers, rows, weights

RANK, ALPHA = 48, 96
TEXT_SHARE = 0.35  # Of the loss, beside the choices'.
TEXT_LENGTH = 256


class Both(nn.Module):
    """A matrix with a LoRA that can be left out; the sum is made of weights, as they are smaller than a batch."""

    def __init__(self, weight: torch.Tensor):
        super().__init__()
        out, size = weight.shape
        self.weight = nn.Parameter(weight)
        self.a = nn.Parameter(torch.empty(RANK, size))
        self.b = nn.Parameter(torch.zeros(out, RANK))
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))
        self.with_lora = True

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """`x` times the matrix."""
        return linear(x, self.weight + (ALPHA / RANK) * (self.b @ self.a) if self.with_lora else self.weight)


def grown(base: LlamaForCausalLM) -> LlamaForCausalLM:
    """The same function with twice the layers."""
    config = copy.deepcopy(base.config)
    config.num_hidden_layers *= 2
    out, state = LlamaForCausalLM(config), {}
    for name, value in base.state_dict().items():
        if ".layers." not in name:
            state[name] = value
            continue
        before, after = name.split(".layers.")
        index, rest = after.split(".", 1)
        ends = "o_proj" in rest or "down_proj" in rest
        state[f"{before}.layers.{2 * int(index)}.{rest}"] = value.clone()
        state[f"{before}.layers.{2 * int(index) + 1}.{rest}"] = torch.zeros_like(value) if ends else value.clone()
    out.load_state_dict(state)
    return out


def matrices(model: LlamaForCausalLM) -> dict[str, Both]:
    """The layers' matrices by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Both)}


def with_loras(model: LlamaForCausalLM, adapter: Path | None, doubled: bool) -> LlamaForCausalLM:
    """Each of the layers' matrices with a LoRA, as in a PEFT directory if there is one."""
    known = load_file(adapter / "adapter_model.safetensors") if adapter else {}
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and ".layers." in name:
            both = Both(module.weight.data)
            before, after = name.split(".layers.")
            index, rest = after.split(".", 1)
            old = name if not doubled else f"{before}.layers.{int(index) // 2}.{rest}" if int(index) % 2 == 0 else None
            if old and f"base_model.model.{old}.lora_A.weight" in known:
                both.a.data = known[f"base_model.model.{old}.lora_A.weight"].float()
                both.b.data = known[f"base_model.model.{old}.lora_B.weight"].float()
            model.get_submodule(name.rsplit(".", 1)[0]).__setattr__(name.rsplit(".", 1)[1], both)
    return model


def save(model: LlamaForCausalLM, work: Path, adapter_config: dict) -> None:
    """Writes base and adapter."""
    parts, base, lora = matrices(model), {}, {}
    for name, value in model.state_dict().items():
        if not name.endswith((".a", ".b")):
            base[name] = value
    for name, both in parts.items():
        lora[f"base_model.model.{name}.lora_A.weight"] = both.a.data.contiguous()
        lora[f"base_model.model.{name}.lora_B.weight"] = both.b.data.contiguous()
    plain = LlamaForCausalLM(model.config)
    plain.load_state_dict(base)
    plain.save_pretrained(work / "base")
    target = work / "adapters" / "convert"
    target.mkdir(parents=True, exist_ok=True)
    save_file(lora, target / "adapter_model.safetensors", metadata={"format": "pt"})
    (target / "adapter_config.json").write_text(json.dumps(adapter_config, indent=2, sort_keys=True) + "\n")


def choices(batch: list[dict], words: int) -> tuple:
    """Rows of `convert_rows` as tensors: tokens, where something is learnt, what, how much, and what else of all `words` stood to choose."""
    tokens = torch.zeros(len(batch), max(len(row["tokens"]) for row in batch), dtype=torch.long)
    which, at, right, weight, places, allowed = [], [], [], [], [], []
    for index, row in enumerate(batch):
        tokens[index, : len(row["tokens"])] = torch.tensor(row["tokens"])
        among = dict(row.get("among", []))
        for place, share in enumerate(row["weights"]):
            if share > 0:
                options = among.get(place, range(words))
                places += [len(at)] * len(options)
                allowed += options
                which.append(index)
                at.append(place - 1)
                right.append(row["tokens"][place])
                weight.append(float(share))
    mask = torch.full((len(at), words), -1e9)
    mask[torch.tensor(places), torch.tensor(allowed)] = 0
    return torch.tensor(which), torch.tensor(at), torch.tensor(right), torch.tensor(weight), mask, tokens


def loss_of(model: LlamaForCausalLM, batch: tuple) -> torch.Tensor:
    """The loss of a small batch of choices (with the LoRA) or of text (without)."""
    kind, *rest = batch
    for both in matrices(model).values():
        both.with_lora = kind == "choices"
    with torch.autocast("cpu", dtype=torch.bfloat16):
        if kind == "choices":
            which, at, right, weight, mask, tokens = rest
            logits = model.lm_head(model.model(input_ids=tokens, use_cache=False).last_hidden_state[which, at])
            return -(torch.log_softmax(logits.float() + mask, -1)[torch.arange(len(right)), right] * weight).sum()
        tokens, weight = rest
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
    losses = cross_entropy(logits.float().flatten(0, 1), tokens[:, 1:].reshape(-1), reduction="none")
    return (losses * weight.reshape(-1)).sum()


def rows_made(into: multiprocessing.Queue, tokenizer: Path, batch: int, seed: int) -> None:
    """Eight steps' rows again and again, those of similar length together."""
    rng = random.Random(seed)
    sentences, vocabulary = convert_rows.Sentences(False, rng), Vocabulary(Tokenizer.from_file(str(tokenizer)))
    while True:
        made = []
        while len(made) < 8 * batch:
            whole = rng.random() < 0.05
            row = convert_rows.tokenized(sentences.draw(convert_rows.WEIGHTS), vocabulary, whole)
            if row:
                made.append(row)
        made.sort(key=lambda row: len(row["tokens"]))
        steps = [made[at : at + batch] for at in range(0, len(made), batch)]
        rng.shuffle(steps)
        into.put(steps)


def main() -> None:
    """Trains until the minutes or steps are used up."""
    args = argparse.ArgumentParser()
    args.add_argument("work", type=Path, help="tokenizer.json and corpus3.npy; base and adapters/convert are written there")
    args.add_argument("--base", type=Path, required=True, help="where it begins: checkpoint or GGUF file")
    args.add_argument("--adapter", type=Path, help="where the LoRA begins")
    args.add_argument("--grow", action="store_true", help="with twice the layers")
    args.add_argument("--minutes", type=float, default=0.0)
    args.add_argument("--steps", type=int, default=0)
    args.add_argument("--batch", type=int, default=64, help="rows of convert a step")
    args.add_argument("--text-tokens", type=int, default=1024, help="tokens of text a step")
    args.add_argument("--lr", type=float, default=1e-3)
    args.add_argument("--warm", type=int, default=60, help="steps until the full learning rate")
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--seed", type=int, default=41)
    args = args.parse_args()
    torch.manual_seed(args.seed)
    torch.set_num_threads(1)
    rng = random.Random(args.seed)
    tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
    end = tokenizer.token_to_id(END_OF_TEXT)
    base = load(args.base, None)
    model = with_loras(grown(base) if args.grow else base, args.adapter, args.grow).train()
    model.set_attn_implementation("eager")
    adapter_config = json.loads((args.adapter / "adapter_config.json").read_text())
    workers = Workers(model, args.threads)
    named = list(model.named_parameters())
    loras = [p for n, p in named if n.endswith((".a", ".b"))]
    inner = [p for n, p in named if p.ndim == 2 and "embed" not in n and not n.endswith((".a", ".b"))]
    known = {id(p) for p in loras + inner}
    optimisers = [
        *(torch.optim.Muon(inner[at :: args.threads], lr=args.lr, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw")
          for at in range(args.threads)),
        torch.optim.AdamW([p for _, p in named if id(p) not in known], lr=0.6 * args.lr, betas=(0.9, 0.97), weight_decay=0.0),
        torch.optim.AdamW(loras, lr=0.5 * args.lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]

    old = np.load(args.work / "corpus3.npy")
    streams = [(old, weights(old, tokenizer))]
    sentences = convert_rows.Sentences(False, rng)

    def new_text(count: int) -> tuple[np.ndarray, np.ndarray]:
        stream, ids = [], 0
        while ids < count:
            made = tokenizer.encode(spoken.document(sentences, convert_rows.WEIGHTS, rng)).ids + [end]
            stream += made
            ids += len(made)
        stream = np.array(stream, dtype=np.uint16)
        return stream, weights(stream, tokenizer)

    places = [list(rows(old, TEXT_LENGTH, end)), []]
    rng.shuffle(places[0])
    streams.append(new_text(10))

    def text(count: int) -> list[tuple]:
        """Small batches of `count` rows of text in all, half of it of the old corpus."""
        out = []
        for source in (0, 1):
            tokens, weight = [], []
            for _ in range(count // 2):
                if not places[source]:
                    streams[source] = new_text(200_000) if source else streams[0]
                    places[source] = list(rows(streams[source][0], TEXT_LENGTH, end))
                    rng.shuffle(places[source])
                stream, weight_of = streams[source]
                start = places[source].pop()
                tokens.append(stream[start : start + TEXT_LENGTH + 1].astype(np.int64))
                weight.append(weight_of[start + 1 : start + TEXT_LENGTH + 1])
            out.append((np.stack(tokens), np.stack(weight)))
        total = sum(weight.sum() for _, weight in out)
        return [("text", torch.from_numpy(tokens), torch.from_numpy(weight * (TEXT_SHARE / total))) for tokens, weight in out]

    spawning = multiprocessing.get_context("spawn")
    made = spawning.Queue(2)
    spawning.Process(target=rows_made, args=(made, args.work / "tokenizer.json", args.batch, args.seed), daemon=True).start()
    begun, step, smooth, waiting = time.time(), 0, None, []
    while (done := step / args.steps if args.steps else (time.time() - begun) / 60 / args.minutes) < 1:
        share = min(1.0, (step + 1) / args.warm) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("peak", group["lr"]) * share
        waiting = waiting or made.get()
        batch = waiting.pop()
        small = [choices(batch[at : at + args.batch // 2], model.config.vocab_size) for at in range(0, args.batch, args.batch // 2)]
        total = sum(float(part[3].sum()) for part in small)
        todo = [("choices", which, at, right, weight / total, mask, tokens) for which, at, right, weight, mask, tokens in small]
        loss = workers.gradients(todo + text(args.text_tokens // TEXT_LENGTH), loss_of)
        torch.nn.utils.clip_grad_norm_([p for _, p in named], 1.0)
        list(workers.pool.map(lambda optimiser: optimiser.step(), optimisers))
        for optimiser in optimisers:
            optimiser.zero_grad(set_to_none=True)
        step += 1
        smooth = loss if smooth is None else 0.97 * smooth + 0.03 * loss
        if step % 20 == 0:
            elapsed = time.time() - begun
            print(f"step {step} minutes {elapsed / 60:.2f} rows/s {step * args.batch / elapsed:.0f} lr {args.lr * share:.5f} loss {smooth:.4f}", flush=True)
        if step % 200 == 0:
            save(model, args.work, adapter_config)
    save(model, args.work, adapter_config)
    print({"steps": step, "minutes": round((time.time() - begun) / 60, 1), "loss": round(smooth, 4)})


if __name__ == "__main__":
    main()
