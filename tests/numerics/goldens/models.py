"""Random small models of every architecture, with adapters, and what transformers and peft compute with them in float32.

The weights are drawn so that every feature shows: leaving out an adapter, its alpha_pattern, the sliding window or the rotary
scaling must move some log-probability by more than 0.05. That is asserted here, and the numbers are stored.
"""

import json
import math
import shutil
from pathlib import Path

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from . import tokenizers_
from .templates import CHATML
from .text import PROMPTS

MUST_MOVE = 0.05
TOP = 5
NEW_TOKENS = 24
# A greedy choice closer than this is not asked of another implementation.
MARGIN = 0.005
LONG = ["harbour", "list"]
ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

COMMON = dict(
    vocab_size=384, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, max_position_embeddings=512, rms_norm_eps=1e-5,
    bos_token_id=0, eos_token_id=2, pad_token_id=None,
)


def bases():
    """(name, configuration, model class, pre-tokenizer, what to leave out to see that it matters)."""
    llama3 = dict(
        rope_type="llama3", rope_theta=10000.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64,
    )
    linear = dict(rope_type="linear", rope_theta=10000.0, factor=4.0)
    default = lambda theta: dict(rope_type="default", rope_theta=theta)
    no_scaling = {"rope_scaling": lambda config: setattr(config, "rope_parameters", default(10000.0))}
    no_window = {"sliding_window": lambda config: setattr(config, "sliding_window", None)}
    return [
        (
            "llama3",
            LlamaConfig(**COMMON, num_key_value_heads=2, intermediate_size=128, rope_parameters=llama3, tie_word_embeddings=False),
            LlamaForCausalLM,
            "llama-bpe",
            no_scaling,
        ),
        (
            "llama-linear",
            LlamaConfig(**COMMON, num_key_value_heads=1, intermediate_size=96, rope_parameters=linear, tie_word_embeddings=False),
            LlamaForCausalLM,
            "gpt-2",
            no_scaling,
        ),
        (
            "mistral",
            MistralConfig(
                **COMMON, num_key_value_heads=2, head_dim=32, intermediate_size=128, sliding_window=24,
                rope_parameters=default(10000.0), tie_word_embeddings=False,
            ),
            MistralForCausalLM,
            "gpt-2",
            no_window,
        ),
        (
            "qwen2",
            Qwen2Config(
                **COMMON, num_key_value_heads=2, intermediate_size=160, rope_parameters=default(1000000.0), tie_word_embeddings=True,
            ),
            Qwen2ForCausalLM,
            "qwen2",
            {},
        ),
    ]


def adapters():
    """(name, LoraConfig): different ranks, targets and patterns."""
    return [
        ("r4-qv", LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "v_proj"])),
        ("r8-all-rslora", LoraConfig(r=8, lora_alpha=8, use_rslora=True, target_modules="all-linear")),
        (
            "patterns",
            LoraConfig(
                r=4, lora_alpha=8, target_modules=ALL_LINEAR,
                rank_pattern={"down_proj": 2, "layers.1.self_attn.q_proj": 6},
                alpha_pattern={"down_proj": 24, "layers.2.mlp.up_proj": 32},
            ),
        ),
        (
            "regex",
            LoraConfig(r=3, lora_alpha=12, target_modules=r".*\.layers\.[02]\.(self_attn\.[ko]_proj|mlp\.gate_proj)"),
        ),
    ]


def draw(module, generator):
    """Weights that make attention sharp enough for positions to matter; rounded to bf16, which files and references share."""
    for name, parameter in module.named_parameters():
        shape, kind = parameter.shape, name.rsplit(".", 2)[-2:]
        noise = torch.randn(shape, generator=generator)
        if "lora_" in name:
            value = noise * 0.6 / math.sqrt(shape[1])
        elif len(shape) == 1:
            value = noise * 0.5 if kind[-1] == "bias" else 1.0 + 0.1 * noise
        elif "embed_tokens" in name:
            value = noise * 0.7
        else:
            gain = 3.0 if "lm_head" in name else 1.8 if ("q_proj" in name or "k_proj" in name) else 1.0
            value = noise * gain / math.sqrt(shape[1])
        parameter.data = value.to(torch.bfloat16).to(torch.float32)


def logprobs(model, tokens):
    """Log-probabilities of the next token after every position: [tokens, vocab]."""
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)


def of_prompt(table, tokens):
    """Log-probability of every prompt token (the first has none) and the best alternatives at its place."""
    values, tops = [None], [None]
    for position, token in enumerate(tokens[1:]):
        best = table[position].topk(TOP)
        values.append(round(table[position, token].item(), 6))
        tops.append([[index.item(), round(value.item(), 6)] for value, index in zip(best.values, best.indices)])
    return values, tops


def greedy(model, tokens):
    """Greedy continuation with log-probabilities, ended before a choice that is too close to call."""
    tokens, chosen, values = list(tokens), [], []
    for _ in range(NEW_TOKENS):
        best = logprobs(model, tokens)[-1].topk(2)
        if (best.values[0] - best.values[1]).item() < MARGIN:
            break
        chosen.append(best.indices[0].item())
        values.append(round(best.values[0].item(), 6))
        tokens.append(chosen[-1])
    return chosen, values


def reference(model, tokenizer, names):
    """What is expected of every prompt."""
    answers = {}
    for name in names:
        tokens = tokenizer.encode(PROMPTS[name])
        assert name == "short" or len(tokens) >= 150, (name, len(tokens))
        values, tops = of_prompt(logprobs(model, tokens), tokens)
        chosen, chosen_values = greedy(model, tokens)
        answers[name] = {
            "text": PROMPTS[name], "tokens": tokens, "logprobs": values, "top": tops, "greedy": chosen,
            "greedy_logprobs": chosen_values,
        }
    return answers


def moved(model, other, tokenizer):
    """Largest change of a prompt token's log-probability between two models."""
    tokens = tokenizer.encode(PROMPTS["harbour"])
    pick = lambda table: table[torch.arange(len(tokens) - 1), torch.tensor(tokens[1:])]
    return (pick(logprobs(model, tokens)) - pick(logprobs(other, tokens))).abs().max().item()


def fresh(model_class, config, weights, change=lambda config: None):
    """A copy of a base with one thing of its configuration changed."""
    config = type(config).from_dict(config.to_dict())
    config._attn_implementation = "eager"
    change(config)
    model = model_class(config).eval()
    missing = model.load_state_dict(weights, strict=False).missing_keys
    assert all("lm_head" in name for name in missing), missing
    model.tie_weights()
    return model


def save_tokenizer(out, pre):
    """Tokenizer files with a chat template; the one for `llama-bpe` adds the beginning of text."""
    bos = "<|endoftext|>" if pre == "llama-bpe" else None
    inner = tokenizers_.byte_level(pre, vocab_size=384, bos=bos)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|endoftext|>", eos_token="<|im_end|>", clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(out)
    return tokenizer


def make_adapter(out, name, lora, base, generator):
    """Saves an adapter; returns the model with it, and how much leaving out its alpha_pattern would matter."""
    model = get_peft_model(base, lora).eval()
    draw_adapter(model, generator)
    folder = out / "adapters" / name
    model.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    weights = folder / "adapter_model.safetensors"
    tensors = {key: value.to(torch.bfloat16) for key, value in load_file(weights).items()}
    # One adapter keeps float32, so that both types are read.
    if name != "r4-qv":
        save_file(tensors, weights, metadata={"format": "pt"})
    tidy(folder / "adapter_config.json")
    return model


def draw_adapter(model, generator):
    holder = torch.nn.Module()
    for index, (name, parameter) in enumerate(pair for pair in model.named_parameters() if "lora_" in pair[0]):
        holder.register_parameter(f"lora_{index}", parameter)
    draw(holder, generator)


def tidy(path):
    """The same bytes on every machine: sorted keys, no paths."""
    document = json.loads(path.read_text())
    document["base_model_name_or_path"] = ""
    if isinstance(document.get("target_modules"), list):
        document["target_modules"].sort()
    path.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def without_alpha_pattern(folder, copy):
    """A copy of an adapter whose configuration has no alpha_pattern."""
    shutil.copytree(folder, copy)
    path = copy / "adapter_config.json"
    document = json.loads(path.read_text())
    document["alpha_pattern"] = {}
    path.write_text(json.dumps(document))


def write(out: Path):
    torch.set_num_threads(1)
    for seed, (name, config, model_class, pre, leave_out) in enumerate(bases()):
        folder = out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        generator = torch.Generator().manual_seed(1000 + seed)
        config._attn_implementation = "eager"
        base = model_class(config).eval()
        draw(base, generator)
        weights = {key: value.clone() for key, value in base.state_dict().items()}
        model_class(config).to(torch.bfloat16)
        stored = fresh(model_class, config, weights).to(torch.bfloat16)
        stored.save_pretrained(folder)
        tokenizer = save_tokenizer(folder, pre)
        matters = {key: moved(base, fresh(model_class, config, weights, change), tokenizer) for key, change in leave_out.items()}
        expected = {"base": reference(base, tokenizer, [*LONG, "short"]), "adapters": {}, "leaving_out_moves": matters}
        for adapter, lora in adapters():
            model = make_adapter(folder, adapter, lora, fresh(model_class, config, weights), generator)
            saved = PeftModel.from_pretrained(fresh(model_class, config, weights), folder / "adapters" / adapter).eval()
            assert moved(model, saved, tokenizer) < 1e-6
            matters[f"adapter {adapter}"] = moved(saved, base, tokenizer)
            if lora.alpha_pattern:
                copy = folder / "adapters" / "copy"
                without_alpha_pattern(folder / "adapters" / adapter, copy)
                plain = PeftModel.from_pretrained(fresh(model_class, config, weights), copy).eval()
                matters["alpha_pattern"] = moved(saved, plain, tokenizer)
                shutil.rmtree(copy)
            expected["adapters"][adapter] = reference(saved, tokenizer, ["harbour", "short"])
        for key, value in matters.items():
            assert value > MUST_MOVE, (name, key, value)
            matters[key] = round(value, 4)
        (folder / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")
        print(name, matters, {key: len(value["greedy"]) for key, value in expected["base"].items()})
