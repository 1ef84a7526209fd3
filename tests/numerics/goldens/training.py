"""Fine-tuning runs of peft and torch on the random bases, step by step, in float32 on the CPU.

Fifty steps with accumulation, warmup, cosine decay, clipping and decoupled weight decay, from an adapter that is stored, over rows that
are stored: uneven lengths, some tokens without weight, some with half of it. Stored are each step's loss and the adapter at the
end. A second run is over the base after a round trip through Q8_0.
"""

import json
import math
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType, quants
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, get_cosine_schedule_with_warmup

STEPS, ROWS, MICRO, ACCUMULATION, RANK = 50, 18, 3, 2, 4
SETTINGS = dict(
    rank=RANK, alpha=8.0, max_steps=STEPS, batch_size=MICRO, accumulation=ACCUMULATION, learning_rate=2e-3, warmup_ratio=0.1,
    scheduler="cosine", weight_decay=0.01, max_grad_norm=1.0, shuffle=False, context=128,
)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def rows(vocabulary, seed):
    draw = np.random.default_rng(seed)
    out = []
    for index in range(ROWS):
        length = int(draw.integers(6, 44))
        tokens = draw.integers(3, vocabulary, length).tolist()
        answer = int(draw.integers(2, length - 2))
        weights = [0.0] * answer + [0.5 if index % 5 == 4 else 1.0] * (length - answer)
        out.append(dict(tokens=tokens, weights=weights))
    return out


def micro_batch(rows):
    width = max(len(row["tokens"]) for row in rows)
    tokens = torch.zeros(len(rows), width, dtype=torch.long)
    mask = torch.zeros(len(rows), width, dtype=torch.long)
    weights = torch.zeros(len(rows), width)
    for index, row in enumerate(rows):
        length = len(row["tokens"])
        tokens[index, :length] = torch.tensor(row["tokens"])
        weights[index, :length] = torch.tensor(row["weights"])
        mask[index, :length] = 1
    return tokens, mask, weights


def train(model, data):
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=SETTINGS["learning_rate"], weight_decay=SETTINGS["weight_decay"])
    warmup = math.ceil(SETTINGS["warmup_ratio"] * STEPS)
    schedule = get_cosine_schedule_with_warmup(optimizer, warmup, STEPS)
    micros = [data[i : i + MICRO] for i in range(0, ROWS, MICRO)]
    groups = [micros[i : i + ACCUMULATION] for i in range(0, len(micros), ACCUMULATION)]
    losses = []
    for step in range(STEPS):
        group = groups[step % len(groups)]
        divisor = sum(sum(row["weights"][1:]) for micro in group for row in micro)
        optimizer.zero_grad()
        total = 0.0
        for micro in group:
            tokens, mask, weights = micro_batch(micro)
            logits = model(input_ids=tokens, attention_mask=mask).logits[:, :-1].float()
            each = torch.nn.functional.cross_entropy(logits.transpose(1, 2), tokens[:, 1:], reduction="none")
            loss = (each * weights[:, 1:]).sum() / divisor
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(parameters, SETTINGS["max_grad_norm"])
        optimizer.step()
        schedule.step()
        losses.append(total)
    return losses


def adapter(model, seed):
    config = LoraConfig(r=RANK, lora_alpha=SETTINGS["alpha"], target_modules=TARGETS, task_type="CAUSAL_LM")
    torch.manual_seed(seed)
    model = get_peft_model(model, config)
    # Neither half begins at zero, so that every gradient is at work from the first step on.
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.02)
    return model.train()


def through_q8_0(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2:
                kind = GGMLQuantizationType.Q8_0
                parameter.copy_(torch.from_numpy(quants.dequantize(quants.quantize(parameter.numpy(), kind), kind)))
    return model


def save(model, target: Path) -> None:
    """Writes an adapter without the place of the base on this machine."""
    model.save_pretrained(target)
    path = target / "adapter_config.json"
    document = json.loads(path.read_text())
    document["base_model_name_or_path"] = ""
    path.write_text(json.dumps(document, indent=2))


def write(folder: Path, models: Path, only=()):
    for seed, name in enumerate(["llama3", "mistral", "qwen2", "qwen3"]):
        if only and name not in only:
            continue
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        load = lambda: AutoModelForCausalLM.from_pretrained(models / name, dtype=torch.float32, attn_implementation="eager")
        data = rows(load().config.vocab_size, seed)
        model = adapter(load(), seed)
        save(model, target / "initial")
        losses = train(model, data)
        save(model, target / "final")
        quantized = train(adapter(through_q8_0(load()), seed), data)
        for run in (losses, quantized):
            assert sum(run[-3:]) < 0.7 * sum(run[:3]), (name, run[:3], run[-3:])
        print(name, losses[:3], losses[-3:])
        expected = dict(settings=SETTINGS, rows=data, losses=losses, losses_q8_0=quantized)
        (target / "expected.json").write_text(json.dumps(expected) + "\n")
        for part in ("initial", "final"):
            (target / part / "README.md").unlink(missing_ok=True)
