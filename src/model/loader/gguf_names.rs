//! GGUF's tensor names and Hugging Face's, both ways. A table; knows nothing of shapes.

use crate::model::architecture::Anatomy;

/// GGUF's table of rotary divisors.
pub(super) const ROPE_FACTORS: &str = "rope_freqs.weight";
/// Phi-3's two: up to the original context, and beyond it.
pub(super) const ROPE_SHORT: &str = "rope_factors_short.weight";
pub(super) const ROPE_LONG: &str = "rope_factors_long.weight";

/// Modules outside the blocks: (GGUF, Hugging Face).
fn outside(anatomy: &Anatomy) -> [(&'static str, &'static str); 3] {
    [("token_embd", "model.embed_tokens"), ("output_norm", anatomy.norms.last), ("output", "lm_head")]
}

/// Modules inside a block: (GGUF, Hugging Face).
fn block(anatomy: &Anatomy) -> impl Iterator<Item = (&'static str, &'static str)> {
    let norms = anatomy.layer_norms().map(|(path, gguf)| (gguf, path));
    norms.chain(anatomy.modules.iter().map(|module| (module.gguf, module.path)))
}

/// Hugging Face's name of a GGUF tensor; `None` when it has none.
pub(super) fn to_huggingface(anatomy: &Anatomy, name: &str) -> Option<String> {
    let Some(rest) = name.strip_prefix("blk.") else {
        let (module, kind) = weight_or_bias(name)?;
        let (_, to) = outside(anatomy).into_iter().find(|(from, _)| *from == module)?;
        return Some(format!("{to}.{kind}"));
    };
    let (layer, rest) = rest.split_once('.')?;
    let (module, kind) = weight_or_bias(rest)?;
    let (_, to) = block(anatomy).find(|(from, _)| *from == module && whole(layer))?;
    Some(format!("model.layers.{layer}.{to}.{kind}"))
}

/// GGUF's name of a Hugging Face tensor; `None` when it has none.
pub(super) fn to_gguf(anatomy: &Anatomy, name: &str) -> Option<String> {
    let Some(rest) = name.strip_prefix("model.layers.") else {
        let (module, kind) = weight_or_bias(name)?;
        let (to, _) = outside(anatomy).into_iter().find(|(_, from)| *from == module)?;
        return Some(format!("{to}.{kind}"));
    };
    let (layer, rest) = rest.split_once('.')?;
    let (module, kind) = weight_or_bias(rest)?;
    let (to, _) = block(anatomy).find(|(_, from)| *from == module && whole(layer))?;
    Some(format!("blk.{layer}.{to}.{kind}"))
}

/// A whole number, written the one way that names have it.
fn whole(layer: &str) -> bool {
    !layer.is_empty() && layer.bytes().all(|b| b.is_ascii_digit()) && (layer == "0" || !layer.starts_with('0'))
}

fn weight_or_bias(name: &str) -> Option<(&str, &str)> {
    name.rsplit_once('.').filter(|(_, kind)| matches!(*kind, "weight" | "bias"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::config::Architecture;

    #[test]
    fn names_go_there_and_back() {
        let llama = Architecture::Llama.anatomy();
        for gguf in ["token_embd.weight", "output.weight", "blk.0.attn_q.weight", "blk.31.attn_k.bias", "blk.7.ffn_down.weight"] {
            let hf = to_huggingface(llama, gguf);
            assert_eq!(hf.as_deref().and_then(|hf| to_gguf(llama, hf)).as_deref(), Some(gguf), "{hf:?}");
        }
        assert_eq!(to_huggingface(llama, "blk.0.attn_q.weight").as_deref(), Some("model.layers.0.self_attn.q_proj.weight"));
        for unknown in ["blk.01.attn_q.weight", "blk..attn_q.weight", "blk.0.attn_q.scale", "blk.0.ssm_in.weight"] {
            assert_eq!(to_huggingface(llama, unknown), None);
        }
        for architecture in Architecture::ALL {
            let anatomy = architecture.anatomy();
            for (gguf, _) in block(anatomy) {
                let gguf = format!("blk.3.{gguf}.weight");
                let hf = to_huggingface(anatomy, &gguf);
                assert_eq!(hf.as_deref().and_then(|hf| to_gguf(anatomy, hf)).as_deref(), Some(&*gguf), "{hf:?}");
            }
        }
        let phi3 = Architecture::Phi3.anatomy();
        assert_eq!(to_huggingface(phi3, "blk.1.ffn_up.weight").as_deref(), Some("model.layers.1.mlp.gate_up_proj.weight"));
        let gemma = Architecture::Gemma2.anatomy();
        let after = "model.layers.0.post_attention_layernorm.weight";
        assert_eq!(to_huggingface(gemma, "blk.0.post_attention_norm.weight").as_deref(), Some(after));
    }
}
