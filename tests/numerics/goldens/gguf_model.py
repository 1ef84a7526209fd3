"""A small GGUF model in a mix of Q4_K, Q6_K, Q8_0 and F32 whose rows are multiples of 256, and what transformers computes with
the dequantized weights. K-quant blocks are drawn at random: the `gguf` package reads them but does not write them."""

import json
import math
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf.constants import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize
from transformers import LlamaConfig, LlamaForCausalLM

from . import models, tokenizers_
from .templates import CHATML

HIDDEN, HEADS, KV_HEADS, INTERMEDIATE, LAYERS, VOCAB = 256, 8, 4, 512, 2, 384
SITES = {
    "attn_q": ("self_attn.q_proj", Type.Q4_K), "attn_k": ("self_attn.k_proj", Type.Q4_K), "attn_v": ("self_attn.v_proj", Type.Q6_K),
    "attn_output": ("self_attn.o_proj", Type.Q8_0), "ffn_gate": ("mlp.gate_proj", Type.Q4_K), "ffn_up": ("mlp.up_proj", Type.Q5_K),
    "ffn_down": ("mlp.down_proj", Type.Q6_K),
}


def halves(values):
    return np.asarray(values, dtype=np.float16).reshape(-1, 1).view(np.uint8)


def blocks(rng, kind, rows, cols, std):
    """Random blocks whose values have about this standard deviation and no mean."""
    if kind == Type.Q8_0:
        return quantize((rng.standard_normal((rows, cols)) * std).astype(np.float32), kind)
    count = rows * cols // 256
    draw = lambda width: rng.integers(0, 256, size=(count, width), dtype=np.uint8)
    if kind == Type.Q6_K:
        # Values are d * scale * (q - 32): q has a deviation of 18.5, the scales of 8-bit bytes here one of 37.
        scales = rng.integers(-64, 65, size=(count, 16), dtype=np.int8).view(np.uint8)
        d = halves(np.full(count, std / (18.5 * 37.0)))
        return np.concatenate([draw(128), draw(64), scales, d], axis=1).reshape(rows, -1)
    top = 15 if kind == Type.Q4_K else 31
    scale = rng.integers(20, 64, size=(count, 8))
    minimum = np.clip(scale + rng.integers(-2, 3, size=scale.shape), 0, 63)
    packed = np.zeros((count, 12), dtype=np.uint8)
    for index in range(4):
        packed[:, index] = scale[:, index] | ((scale[:, index + 4] >> 4) << 6)
        packed[:, index + 4] = minimum[:, index] | ((minimum[:, index + 4] >> 4) << 6)
        packed[:, index + 8] = (scale[:, index + 4] & 15) | ((minimum[:, index + 4] & 15) << 4)
    d = std / (42.0 * top / math.sqrt(12.0))
    parts = [halves(np.full(count, d)), halves(np.full(count, d * top / 2)), packed]
    parts += [draw(128)] if kind == Type.Q4_K else [draw(32), draw(128)]
    return np.concatenate(parts, axis=1).reshape(rows, -1)


def rotary_halves(matrix, heads):
    """Rows from GGUF's order (interleaved pairs) to Hugging Face's (halves)."""
    rows, cols = matrix.shape
    return matrix.reshape(heads, rows // heads // 2, 2, cols).swapaxes(1, 2).reshape(rows, cols)


def write(out: Path):
    torch.set_num_threads(1)
    out.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(77)
    path = out / "llama-mix.gguf"
    writer = gguf.GGUFWriter(str(path), "llama")
    writer.add_name("golden llama mix")
    writer.add_context_length(512)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(INTERMEDIATE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    tokenizer = tokenizers_.byte_level("llama-bpe", vocab_size=VOCAB, bos="<|endoftext|>")
    tokenizers_.gguf_metadata(writer, tokenizer, pre="llama-bpe", bos="<|endoftext|>", eos="<|im_end|>")
    writer.add_chat_template(CHATML)
    weights = {}

    def matrix(name, hf, kind, shape, std, heads=None):
        stored = blocks(rng, kind, *shape, std)
        writer.add_tensor(name, stored, raw_dtype=kind)
        values = dequantize(stored, kind).reshape(shape)
        weights[hf] = rotary_halves(values, heads) if heads else values

    def vector(name, hf):
        values = (1.0 + 0.1 * rng.standard_normal(HIDDEN)).astype(np.float32)
        writer.add_tensor(name, values)
        weights[hf] = values

    # Rotary divisors as Llama 3.x files carry them; the reference applies them to its inverse frequencies.
    factors = np.linspace(1.0, 8.0, HIDDEN // HEADS // 2).astype(np.float32)
    writer.add_tensor("rope_freqs.weight", factors)
    matrix("token_embd.weight", "model.embed_tokens.weight", Type.Q4_K, (VOCAB, HIDDEN), 0.7)
    vector("output_norm.weight", "model.norm.weight")
    matrix("output.weight", "lm_head.weight", Type.Q6_K, (VOCAB, HIDDEN), 3.0 / math.sqrt(HIDDEN))
    widths = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN // 2, HIDDEN), "attn_v": (HIDDEN // 2, HIDDEN),
              "attn_output": (HIDDEN, HIDDEN), "ffn_gate": (INTERMEDIATE, HIDDEN), "ffn_up": (INTERMEDIATE, HIDDEN),
              "ffn_down": (HIDDEN, INTERMEDIATE)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        vector(f"blk.{layer}.attn_norm.weight", prefix + "input_layernorm.weight")
        vector(f"blk.{layer}.ffn_norm.weight", prefix + "post_attention_layernorm.weight")
        for site, (hf, kind) in SITES.items():
            gain = 1.8 if site in ("attn_q", "attn_k") else 1.0
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(site)
            shape = widths[site]
            matrix(f"blk.{layer}.{site}.weight", f"{prefix}{hf}.weight", kind, shape, gain / math.sqrt(shape[1]), heads)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    config = LlamaConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, intermediate_size=INTERMEDIATE, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS, max_position_embeddings=512, rms_norm_eps=1e-5, tie_word_embeddings=False,
        rope_parameters=dict(rope_type="default", rope_theta=10000.0), attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    model.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in weights.items()}, strict=True)
    encode = type("Encode", (), {"encode": staticmethod(lambda text: tokenizer.encode(text).ids)})
    plain = models.logprobs(model, encode.encode(models.PROMPTS["harbour"]))
    model.model.rotary_emb.inv_freq /= torch.from_numpy(factors)
    moved = (models.logprobs(model, encode.encode(models.PROMPTS["harbour"])) - plain).abs().max().item()
    assert moved > models.MUST_MOVE, moved
    expected = {"base": models.reference(model, encode, ["harbour", "short"]), "leaving_out_moves": {"rope_freqs": round(moved, 4)}}
    (out / "llama-mix.expected.json").write_text(json.dumps(expected, separators=(",", ":")) + "\n")
    print("llama-mix", expected["leaving_out_moves"], len(expected["base"]["harbour"]["greedy"]))
