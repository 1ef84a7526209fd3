"""Owns the training of the base model: network shape, optimisers, schedule and checkpoints.

Reads the tokenizer and token stream that corpus.py wrote; writes a transformers checkpoint.
Matrices inside the blocks are trained with Muon, embeddings and norms with AdamW. The learning
rate follows the share of the budget that is used up, whether the budget is steps or minutes.
Each worker thread has its own gradients over shared weights and takes small batches from a
queue, so that a core which is busy with other work does not hold up the rest.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # The workers are the parallelism.

import argparse
import copy
import json
import math
import queue
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from corpus import END_OF_TEXT, IM_END, IM_START, VOCAB

# Words a user says are mostly slot fillers drawn at random; learning to predict them is worth less.
USER_WEIGHT = 0.25


def build(layers: int) -> LlamaForCausalLM:
    """The network: llama with grouped-query attention and a tied output."""
    end = VOCAB - 3
    return LlamaForCausalLM(LlamaConfig(
        vocab_size=VOCAB, hidden_size=256, intermediate_size=768, num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2, head_dim=64,
        max_position_embeddings=1024, rms_norm_eps=1e-5, rope_theta=10000.0, tie_word_embeddings=True, attn_implementation="eager",
        bos_token_id=end, eos_token_id=end + 2, pad_token_id=end,
    ))


def rows(stream: np.ndarray, length: int, end: int) -> np.ndarray:
    """Start offsets of rows of `length` tokens, each at the beginning of a document, without overlap."""
    starts = np.concatenate([[0], np.flatnonzero(stream == end) + 1])
    picked, reached = [], 0
    for start in starts:
        if start >= reached and start + length + 1 <= len(stream):
            picked.append(start)
            reached = start + length
    return np.array(picked)


def weights(stream: np.ndarray, tokenizer: Tokenizer) -> np.ndarray:
    """The loss weight of every token: 1, but less inside what a user says, in a chat or written down."""
    start, end = tokenizer.token_to_id(IM_START), tokenizer.token_to_id(END_OF_TEXT)
    assistant = tokenizer.encode("assistant").ids[0]
    bounds = np.flatnonzero((stream == start) | (stream == end))
    following = stream[np.minimum(bounds + 1, len(stream) - 1)]
    light = (stream[bounds] == start) & (following != assistant)
    written = (stream[bounds] == end) & (following == tokenizer.encode("request").ids[0])
    newline = tokenizer.encode("\n").ids[0]
    out = np.ones(len(stream), dtype=np.float32)
    for begin, stop, is_light, is_written in zip(bounds, np.append(bounds[1:], len(stream)), light, written):
        if is_light:
            out[begin:stop] = USER_WEIGHT
        elif is_written:
            line = np.flatnonzero(stream[begin:stop] == newline)
            out[begin : begin + (line[0] if len(line) else 0)] = USER_WEIGHT
    return out


class Workers:
    """Replicas of a model that share its weights and add up their gradients."""

    def __init__(self, model: torch.nn.Module, count: int):
        self.model = model
        self.replicas = [copy.deepcopy(model) for _ in range(count)]
        for replica in self.replicas:
            for mine, shared in zip(replica.parameters(), model.parameters(), strict=True):
                mine.data = shared.data
                mine.requires_grad_(shared.requires_grad)
        self.pool = ThreadPoolExecutor(count)

    def gradients(self, batches: list, loss_of) -> float:
        """Runs `loss_of(replica, batch)` over all batches; leaves the summed gradients on the model."""
        todo: queue.SimpleQueue = queue.SimpleQueue()
        for batch in batches:
            todo.put(batch)

        def work(replica: torch.nn.Module) -> float:
            total = 0.0
            while True:
                try:
                    batch = todo.get_nowait()
                except queue.Empty:
                    return total
                loss = loss_of(replica, batch)
                loss.backward()
                total += loss.item()

        total = sum(self.pool.map(work, self.replicas))
        for shared, *mine in zip(self.model.parameters(), *(r.parameters() for r in self.replicas), strict=True):
            grads = [p.grad for p in mine if p.grad is not None]
            if grads:
                shared.grad = grads[0]
                for extra in grads[1:]:
                    shared.grad += extra
            for p in mine:
                p.grad = None
        return total


def packed_loss(model: torch.nn.Module, batch: tuple) -> torch.Tensor:
    """Weighted next-token loss of (tokens, weights); the weights already hold the batch's share."""
    tokens, weight = batch
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=tokens[:, :-1], use_cache=False).logits
        losses = cross_entropy(logits.reshape(-1, logits.shape[-1]), tokens[:, 1:].reshape(-1), reduction="none")
    return (losses.float() * weight.reshape(-1)).sum()


def main() -> None:
    """Trains until the budget of minutes or steps is used up."""
    args = argparse.ArgumentParser()
    args.add_argument("work", type=Path)
    args.add_argument("--minutes", type=float, default=0.0)
    args.add_argument("--steps", type=int, default=0)
    args.add_argument("--stage", type=int, default=1)
    args.add_argument("--long-rows", choices=["last", "half"], default="last", help="rows of the whole context: in the last tenth, or in every other step")
    args.add_argument("--layers", type=int, default=6)
    args.add_argument("--tokens-per-step", type=int, default=4096)
    args.add_argument("--lr", type=float, default=5e-3)
    args.add_argument("--threads", type=int, default=2)
    args.add_argument("--seed", type=int, default=13)
    args = args.parse_args()
    torch.manual_seed(args.seed)
    tokenizer = Tokenizer.from_file(str(args.work / "tokenizer.json"))
    stream = np.load(args.work / f"corpus{args.stage}.npy")
    loss_weight = weights(stream, tokenizer)
    end = tokenizer.token_to_id(END_OF_TEXT)
    assert (end, tokenizer.token_to_id(IM_END)) == (VOCAB - 3, VOCAB - 1)
    rng = np.random.default_rng(args.seed)
    # Short rows are cheap; rows of the whole context teach the far positions.
    plan = {length: rng.permutation(rows(stream, length, end)) for length in (256, 1024)}
    used = dict.fromkeys(plan, 0)

    model = build(args.layers)
    if args.stage > 1:
        # Goes on from the saved weights; optimisers and schedule begin anew.
        model.load_state_dict(LlamaForCausalLM.from_pretrained(args.work / "base", dtype=torch.float32).state_dict())
    workers = Workers(model, args.threads)
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    optimisers = [
        torch.optim.Muon(matrices, lr=args.lr, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=0.6 * args.lr, betas=(0.9, 0.97), weight_decay=0.0),
    ]
    begun, step, seen, smooth, saved = time.time(), 0, 0, None, 0.0
    while True:
        minutes = (time.time() - begun) / 60
        done = step / args.steps if args.steps else minutes / args.minutes
        if done >= 1:
            break
        share = min(1.0, (step + 1) / 60) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done)))
        for optimiser in optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group.setdefault("peak", group["lr"]) * share
        length = 1024 if (done >= 0.9 if args.long_rows == "last" else step % 2) else 256
        count = args.tokens_per_step // length
        at = plan[length][np.arange(used[length], used[length] + count) % len(plan[length])]
        used[length] += count
        window = at[:, None] + np.arange(length + 1)[None]
        tokens = torch.from_numpy(stream[window].astype(np.int64))
        weight = torch.from_numpy(loss_weight[window[:, 1:]])
        weight /= weight.sum()
        loss = workers.gradients(list(zip(tokens.split(1024 // length), weight.split(1024 // length))), packed_loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimiser in optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        step, seen = step + 1, seen + count * length
        smooth = loss if smooth is None else 0.97 * smooth + 0.03 * loss
        if step % 20 == 0:
            elapsed = time.time() - begun
            print(f"step {step} tokens {seen} minutes {elapsed / 60:.2f} tok/s {seen / elapsed:.0f} lr {args.lr * share:.5f} loss {smooth:.4f}", flush=True)
        if minutes - saved > 3:
            saved = minutes
            model.save_pretrained(args.work / "base")
    model.save_pretrained(args.work / "base")
    record = {"steps": step, "tokens": seen, "minutes": round((time.time() - begun) / 60, 1), "loss": round(smooth, 4), "parameters": model.num_parameters(), "layers": args.layers, "stage": args.stage}
    (args.work / f"training{args.stage}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(record)


if __name__ == "__main__":
    main()
