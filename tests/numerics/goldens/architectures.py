"""Random small models of the architectures beyond Llama's family, each from both formats: a Hugging Face directory with two
adapters, and a GGUF file in Q8_0 with llama.cpp's names and conventions (weights of Gemma's normalisations with their one added,
Phi-3's projections stored together, Phi-2's as early files had them), with what transformers and peft compute in float32.

As for the others, leaving out any feature must move some log-probability by more than 0.05.
"""

import json
import math
import shutil
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from peft import LoraConfig, PeftModel
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    Phi3Config,
    Phi3ForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from . import models, tokenizers_
from .models import MUST_MOVE, fresh, logprobs, moved, reference
from .templates import CHATML

CONTEXT = 512
COMMON = dict(
    vocab_size=384, hidden_size=64, num_attention_heads=4, num_key_value_heads=2, intermediate_size=96,
    max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=2, pad_token_id=None,
)
ORIGINAL = 64


def setting(name, value):
    return lambda config: setattr(config, name, value)


def rope(**changes):
    def change(config):
        config.rope_parameters = {**config.rope_parameters, **changes}

    return change


def local_theta(config):
    config.rope_parameters = {
        **config.rope_parameters,
        "sliding_attention": {**config.rope_parameters["sliding_attention"], "rope_theta": 1000000.0},
    }


def bases():
    """(name, seed, configuration, model class, pre-tokenizer, what to leave out, targets of the first adapter)."""
    longrope = dict(
        rope_type="longrope", rope_theta=10000.0, partial_rotary_factor=0.75, short_factor=[1.0 + 0.1 * i for i in range(6)],
        long_factor=[1.0 + 0.6 * i for i in range(6)], original_max_position_embeddings=ORIGINAL,
    )
    gemma = dict(
        head_dim=32, sliding_window=24, query_pre_attn_scalar=8, rms_norm_eps=1e-6, tie_word_embeddings=True,
        hidden_activation="gelu_pytorch_tanh",
    )
    return [
        (
            "qwen3", 2001,
            Qwen3Config(
                **COMMON, num_hidden_layers=2, head_dim=32, rms_norm_eps=1e-6, tie_word_embeddings=True,
                rope_parameters=dict(rope_type="default", rope_theta=1000000.0),
            ),
            Qwen3ForCausalLM, "qwen2", {}, ["q_proj", "v_proj"],
        ),
        (
            "phi3", 2002,
            Phi3Config(
                **COMMON, num_hidden_layers=2, rms_norm_eps=1e-5, tie_word_embeddings=False, sliding_window=40,
                original_max_position_embeddings=ORIGINAL, rope_parameters=longrope,
            ),
            Phi3ForCausalLM, "gpt-2",
            {
                "rope_scaling": rope(rope_type="default"),
                "sliding_window": setting("sliding_window", None),
                "long_factor": rope(long_factor=longrope["short_factor"]),
            },
            ["qkv_proj", "gate_up_proj"],
        ),
        (
            "gemma2", 2003,
            Gemma2Config(
                **COMMON, num_hidden_layers=3, attn_logit_softcapping=3.0, final_logit_softcapping=5.0,
                rope_parameters=dict(rope_type="default", rope_theta=10000.0), **gemma,
            ),
            Gemma2ForCausalLM, "gpt-2",
            {
                "sliding_window": setting("sliding_window", 4096),
                "attn_logit_softcapping": setting("attn_logit_softcapping", None),
                "final_logit_softcapping": setting("final_logit_softcapping", None),
                "query_pre_attn_scalar": setting("query_pre_attn_scalar", 32),
            },
            ["q_proj", "v_proj"],
        ),
        (
            "gemma3", 2004,
            Gemma3TextConfig(
                **COMMON, num_hidden_layers=3, layer_types=["sliding_attention", "full_attention", "sliding_attention"],
                rope_parameters={
                    "sliding_attention": dict(rope_type="default", rope_theta=100.0),
                    "full_attention": dict(rope_type="linear", factor=4.0, rope_theta=100000.0),
                },
                **gemma,
            ),
            Gemma3ForCausalLM, "gpt-2",
            {"sliding_window": setting("sliding_window", 4096), "rope_local_base_freq": local_theta},
            ["q_proj", "v_proj"],
        ),
        (
            "phi2", 2005,
            PhiConfig(
                **{**COMMON, "num_key_value_heads": 4}, num_hidden_layers=2, layer_norm_eps=1e-5, hidden_act="gelu_new",
                tie_word_embeddings=False, rope_parameters=dict(rope_type="default", rope_theta=10000.0, partial_rotary_factor=0.5),
            ),
            PhiForCausalLM, "gpt-2", {"partial_rotary_factor": rope(partial_rotary_factor=1.0)}, ["q_proj", "dense", "fc2"],
        ),
    ]


def adapters(targets):
    down = "fc2" if "fc2" in targets else "down_proj"
    every = LoraConfig(
        r=6, lora_alpha=8, use_rslora=True, target_modules="all-linear", rank_pattern={down: 2}, alpha_pattern={down: 16}
    )
    return [("r4-some", LoraConfig(r=4, lora_alpha=8, target_modules=targets)), ("r6-all", every)]


def draw(model, config, generator):
    """As for the others; normalised heads are drawn large, so that attention is sharp."""
    models.draw(model, generator)
    gemma = config.model_type.startswith("gemma")
    for name, parameter in model.named_parameters():
        if "q_norm" in name or "k_norm" in name:
            parameter.data = parameter.data + (0.8 if not gemma else -0.2)
        elif "norm" in name and gemma:
            parameter.data = parameter.data - 0.8
        elif "embed_tokens" in name and gemma:
            parameter.data = parameter.data / 4
        parameter.data = parameter.data.to(torch.bfloat16).to(torch.float32)


def write(models_out: Path, gguf_out: Path, only=()):
    torch.set_num_threads(1)
    for name, seed, config, model_class, pre, leave_out, targets in bases():
        if only and name not in only:
            continue
        folder = models_out / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        generator = torch.Generator().manual_seed(seed)
        config._attn_implementation = "eager"
        base = model_class(config).eval()
        draw(base, config, generator)
        weights = {key: value.clone() for key, value in base.state_dict().items()}
        fresh(model_class, config, weights).to(torch.bfloat16).save_pretrained(folder)
        tokenizer = models.save_tokenizer(folder, pre)
        matters = {key: moved(base, fresh(model_class, config, weights, change), tokenizer) for key, change in leave_out.items()}
        # Phi-3 has other divisors within its original context: a server has the ones or the others.
        short = {} if name == "phi3" else {"short": reference(base, tokenizer, ["short"])["short"]}
        expected = {"base": {**reference(base, tokenizer, ["harbour"]), **short}, "adapters": {}, "leaving_out_moves": matters}
        if name == "phi3":
            expected["within_original"] = reference(base, tokenizer, ["short"])
        for adapter, lora in adapters(targets):
            model = models.make_adapter(folder, adapter, lora, fresh(model_class, config, weights), generator)
            saved = PeftModel.from_pretrained(fresh(model_class, config, weights), folder / "adapters" / adapter).eval()
            assert moved(model, saved, tokenizer) < 1e-6
            matters[f"adapter {adapter}"] = moved(saved, base, tokenizer)
            expected["adapters"][adapter] = reference(saved, tokenizer, ["harbour"])
        for key, value in matters.items():
            assert value > MUST_MOVE, (name, key, value)
            matters[key] = round(value, 4)
        (folder / "expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")
        print(name, matters, len(expected["base"]["harbour"]["greedy"]))
        write_gguf(gguf_out, name, config, model_class, weights, tokenizer, pre)


def stored_tensors(config, weights):
    """(GGUF's name, values), as llama.cpp's conversion has them."""
    kind = config.model_type
    arch = {"phi": "phi2", "gemma3_text": "gemma3"}.get(kind, kind)
    architecture = next(key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == arch)
    names = gguf.get_tensor_name_map(architecture, config.num_hidden_layers)
    tied = config.tie_word_embeddings
    out = {}
    for key, value in weights.items():
        if tied and key == "lm_head.weight":
            continue
        values = value.float().numpy()
        if kind.startswith("gemma") and key.endswith("norm.weight"):
            values = values + 1
        out[names.get_name(key, try_suffixes=(".weight", ".bias"))] = (key, values)
    if arch == "phi2":
        # Early conversions: one tensor.
        for layer in range(config.num_hidden_layers):
            for suffix in ("weight", "bias"):
                parts = [out.pop(f"blk.{layer}.attn_{part}.{suffix}") for part in "qkv"]
                out[f"blk.{layer}.attn_qkv.{suffix}"] = ([key for key, _ in parts], np.concatenate([value for _, value in parts]))
    return arch, out


def write_gguf(out: Path, name, config, model_class, weights, tokenizer, pre):
    arch, tensors = stored_tensors(config, weights)
    path = out / f"{name}.gguf"
    writer = gguf.GGUFWriter(str(path), arch)
    writer.add_name(f"golden {name}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if arch in ("qwen3", "gemma2", "gemma3"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    ropes = config.rope_parameters
    ropes = ropes.get("full_attention", ropes)
    writer.add_rope_freq_base(ropes["rope_theta"])
    if arch == "phi2":
        writer.add_layer_norm_eps(config.layer_norm_eps)
    else:
        writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if arch in ("phi2", "phi3"):
        writer.add_rope_dimension_count(int(head_dim * ropes["partial_rotary_factor"]))
    if arch == "phi3":
        factor = CONTEXT / ORIGINAL
        writer.add_rope_scaling_orig_ctx_len(ORIGINAL)
        writer.add_rope_scaling_attn_factors(math.sqrt(1 + math.log(factor) / math.log(ORIGINAL)))
        writer.add_tensor("rope_factors_long.weight", np.array(ropes["long_factor"], dtype=np.float32))
        writer.add_tensor("rope_factors_short.weight", np.array(ropes["short_factor"], dtype=np.float32))
    if getattr(config, "sliding_window", None) and arch != "qwen3":
        writer.add_sliding_window(config.sliding_window)
    if arch == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    if arch == "gemma3":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(4.0)
        writer.add_rope_freq_base_swa(config.rope_parameters["sliding_attention"]["rope_theta"])
        writer.add_sliding_window_pattern([kind == "sliding_attention" for kind in config.layer_types])
    tokenizers_.gguf_metadata(writer, tokenizer.backend_tokenizer, pre=pre, eos="<|im_end|>")
    writer.add_chat_template(CHATML)
    known = {}
    for gguf_name, (keys, values) in tensors.items():
        if values.ndim == 1:
            writer.add_tensor(gguf_name, values.astype(np.float32))
            kept = values
        else:
            packed = quantize(values.astype(np.float32), Type.Q8_0)
            writer.add_tensor(gguf_name, packed, raw_dtype=Type.Q8_0)
            kept = dequantize(packed, Type.Q8_0).reshape(values.shape)
        if isinstance(keys, list):
            for key, part in zip(keys, np.split(kept, 3)):
                known[key] = torch.from_numpy(part.copy())
            continue
        if arch.startswith("gemma") and keys.endswith("norm.weight"):
            kept = kept - 1
        known[keys] = torch.from_numpy(np.ascontiguousarray(kept).copy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    # Files have no key for it: it follows from the width of a head.
    scale = (lambda config: setattr(config, "query_pre_attn_scalar", head_dim)) if arch.startswith("gemma") else (lambda config: None)
    if config.tie_word_embeddings:
        known["lm_head.weight"] = known["model.embed_tokens.weight"]
    model = fresh(model_class, config, known, scale)
    original = fresh(model_class, config, weights, scale)
    prompts = ["harbour"] if arch == "phi3" else ["harbour", "short"]
    tokens = tokenizer.encode(models.PROMPTS["harbour"])
    worst = (logprobs(model, tokens) - logprobs(original, tokens)).abs().max().item()
    expected = {
        "base": reference(model, tokenizer, prompts),
        "unquantized": reference(original, tokenizer, ["harbour"]),
        "leaving_out_moves": {},
    }
    (out / f"{name}.expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")
    print(name, "gguf", path.stat().st_size, "Q8_0 moves", round(worst, 4))
