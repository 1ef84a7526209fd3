//! GGUF's tensor names and Hugging Face's, both ways. A table; knows nothing of shapes.

use crate::model::config::LinearSite;

/// GGUF's table of rotary divisors.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";

/// Names outside the blocks: (GGUF, Hugging Face).
const GLOBAL: [(&str, &str); 3] = [
    ("token_embd.weight", "model.embed_tokens.weight"),
    ("output_norm.weight", "model.norm.weight"),
    ("output.weight", "lm_head.weight"),
];

/// Modules inside a block: (GGUF, Hugging Face).
const BLOCK: [(&str, &str); 9] = [
    ("attn_norm", "input_layernorm"),
    ("attn_q", LinearSite::Q.module()),
    ("attn_k", LinearSite::K.module()),
    ("attn_v", LinearSite::V.module()),
    ("attn_output", LinearSite::O.module()),
    ("ffn_norm", "post_attention_layernorm"),
    ("ffn_gate", LinearSite::Gate.module()),
    ("ffn_up", LinearSite::Up.module()),
    ("ffn_down", LinearSite::Down.module()),
];

/// Hugging Face's name of a GGUF tensor; `None` when it has none.
pub(super) fn to_huggingface(name: &str) -> Option<String> {
    if let Some((_, to)) = GLOBAL.iter().find(|(from, _)| *from == name) {
        return Some((*to).to_owned());
    }
    let (layer, rest) = name.strip_prefix("blk.")?.split_once('.')?;
    let (module, kind) = rest.split_once('.')?;
    translate(layer, module, kind, BLOCK.iter().copied()).map(|(module, kind)| format!("model.layers.{layer}.{module}.{kind}"))
}

/// GGUF's name of a Hugging Face tensor; `None` when it has none.
pub(super) fn to_gguf(name: &str) -> Option<String> {
    if let Some((to, _)) = GLOBAL.iter().find(|(_, from)| *from == name) {
        return Some((*to).to_owned());
    }
    let (layer, rest) = name.strip_prefix("model.layers.")?.split_once('.')?;
    let (module, kind) = rest.rsplit_once('.')?;
    translate(layer, module, kind, BLOCK.iter().map(|(gguf, hf)| (*hf, *gguf)))
        .map(|(module, kind)| format!("blk.{layer}.{module}.{kind}"))
}

/// Looks a module up; only whole layer numbers and weights or biases pass.
fn translate<'a>(
    layer: &str,
    module: &str,
    kind: &'a str,
    mut table: impl Iterator<Item = (&'a str, &'a str)>,
) -> Option<(&'a str, &'a str)> {
    let plain = !layer.is_empty() && layer.bytes().all(|b| b.is_ascii_digit()) && (layer == "0" || !layer.starts_with('0'));
    if !plain || !matches!(kind, "weight" | "bias") {
        return None;
    }
    table.find(|(from, _)| *from == module).map(|(_, to)| (to, kind))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_go_there_and_back() {
        for gguf in ["token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.31.attn_k.bias", "blk.7.ffn_down.weight"] {
            let hf = to_huggingface(gguf);
            assert_eq!(hf.as_deref().and_then(to_gguf).as_deref(), Some(gguf), "{hf:?}");
        }
        assert_eq!(to_huggingface("blk.0.attn_q.weight").as_deref(), Some("model.layers.0.self_attn.q_proj.weight"));
        for unknown in ["blk.01.attn_q.weight", "blk..attn_q.weight", "blk.0.attn_q.scale", "blk.0.ssm_in.weight"] {
            assert_eq!(to_huggingface(unknown), None);
        }
    }
}
