"""Owns the GGUF form of the base: writing it as Q8_0 and reading it back into transformers.

Follows llama.cpp's conventions for the llama architecture: tensor names, metadata keys, and the
row order of q_proj and k_proj (rotation pairs side by side instead of in halves).
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from corpus import CHAT_TEMPLATE, END_OF_TEXT, IM_END, SPECIALS

ROPE_THETA = 10000.0
_BLOCK = {
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
}


def interleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of each head from halves (0..31, 32..63) to pairs (0, 32, 1, 33, ...)."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


def uninterleave(weight: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of `interleave`."""
    return weight.reshape(heads, weight.shape[0] // heads // 2, 2, -1).swapaxes(1, 2).reshape(weight.shape)


def gguf_name(name: str) -> str:
    """A transformers tensor name as GGUF calls it."""
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, block, rest = name.split(".", 3)
    return f"blk.{block}.{_BLOCK[rest.removesuffix('.weight')]}.weight"


def write(base: Path, tokenizer: Path, target: Path) -> None:
    """Writes the checkpoint and its tokenizer as one GGUF file: matrices Q8_0, norms F32."""
    model = LlamaForCausalLM.from_pretrained(base, dtype=torch.float32)
    config, spec = model.config, json.loads(tokenizer.read_text())
    out = gguf.GGUFWriter(str(target), "llama")
    out.add_name("switchyard-base")
    out.add_description("A tiny assistant model that is trained from scratch, bundled with Switchyard.")
    out.add_license("MIT OR Apache-2.0")
    out.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    out.add_quantization_version(gguf.GGML_QUANT_VERSION)
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    out.add_rope_freq_base(ROPE_THETA)
    out.add_vocab_size(config.vocab_size)
    ids = dict(spec["model"]["vocab"]) | {t["content"]: t["id"] for t in spec["added_tokens"]}
    tokens = [token for token, _ in sorted(ids.items(), key=lambda item: item[1])]
    assert len(tokens) == config.vocab_size
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("qwen2")
    out.add_token_list(tokens)
    out.add_token_types([gguf.TokenType.CONTROL if t in SPECIALS else gguf.TokenType.NORMAL for t in tokens])
    out.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in spec["model"]["merges"]])
    out.add_bos_token_id(ids[END_OF_TEXT])
    out.add_eos_token_id(ids[IM_END])
    out.add_pad_token_id(ids[END_OF_TEXT])
    out.add_add_bos_token(False)
    out.add_chat_template(CHAT_TEMPLATE)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue  # Tied to the embedding.
        value = tensor.float().numpy()
        for part, count in heads.items():
            if part in name:
                value = interleave(value, count)
        if value.ndim == 1:
            out.add_tensor(gguf_name(name), value)
        else:
            packed = gguf.quantize(value, gguf.GGMLQuantizationType.Q8_0)
            out.add_tensor(gguf_name(name), packed, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()


def read(path: Path) -> LlamaForCausalLM:
    """Loads a GGUF file back: dequantized, un-permuted, as a transformers model."""
    reader = gguf.GGUFReader(str(path))

    def field(key: str) -> float:
        return reader.get_field(f"llama.{key}").contents()

    tensors = {t.name: gguf.dequantize(t.data, t.tensor_type) for t in reader.tensors}
    model = LlamaForCausalLM(LlamaConfig(
        vocab_size=field("vocab_size"), hidden_size=field("embedding_length"), intermediate_size=field("feed_forward_length"),
        num_hidden_layers=field("block_count"), num_attention_heads=field("attention.head_count"), num_key_value_heads=field("attention.head_count_kv"),
        max_position_embeddings=field("context_length"), rms_norm_eps=field("attention.layer_norm_rms_epsilon"), rope_theta=field("rope.freq_base"),
        tie_word_embeddings=True, attn_implementation="eager",
        bos_token_id=reader.get_field("tokenizer.ggml.bos_token_id").contents(), eos_token_id=reader.get_field("tokenizer.ggml.eos_token_id").contents(),
        pad_token_id=reader.get_field("tokenizer.ggml.padding_token_id").contents(),
    ))
    heads = {"q_proj": field("attention.head_count"), "k_proj": field("attention.head_count_kv")}
    state = {}
    for name, old in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        value = np.array(tensors[gguf_name(name)], dtype=np.float32)
        for part, count in heads.items():
            if part in name:
                value = uninterleave(value, count)
        state[name] = torch.from_numpy(np.ascontiguousarray(value)).reshape(old.shape)
    missing, unexpected = model.load_state_dict(state, strict=False)
    assert set(missing) <= {"lm_head.weight"} and not unexpected, (missing, unexpected)
    model.tie_weights()
    return model.eval()


if __name__ == "__main__":
    work, target = Path(sys.argv[1]), Path(sys.argv[2])
    write(work / "base", work / "tokenizer.json", target)
    original = LlamaForCausalLM.from_pretrained(work / "base", dtype=torch.float32).state_dict()
    worst = max((original[k] - v).abs().max().item() / original[k].abs().max().item() for k, v in read(target).state_dict().items())
    print(f"{target.name} {target.stat().st_size} bytes, largest error relative to a tensor's largest weight {worst:.5f}")
