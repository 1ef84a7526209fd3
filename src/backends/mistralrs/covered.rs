//! What of a base mistralrs 0.8.1 computes as it was made to be computed. Its CPU path was held against our engine, which is held against
//! transformers: Llama, Qwen2 and Qwen3 agree to the fifth digit, Mistral and Gemma 2 as long as nothing has left their windows; Phi and
//! Gemma 3 do not.

use crate::model::architecture::Architecture;
use crate::model::{ModelConfig, ModelError};

/// The base as it is served: no longer than its window, where it has one.
pub(super) fn served(model: ModelConfig) -> Result<ModelConfig, ModelError> {
    use Architecture::{Foreign, Gemma2, Gemma3, Llama, Mistral, Phi2, Phi3, Qwen2, Qwen3};
    match model.architecture {
        Llama | Mistral | Qwen2 | Qwen3 | Gemma2 | Foreign => {}
        Phi2 | Phi3 | Gemma3 => {
            return Err(ModelError::Invalid(format!(
                "mistralrs 0.8.1 computes {} otherwise than its makers; --backend native computes it as they do",
                model.anatomy().name
            )));
        }
    }
    let context_length = model.sliding_window.unwrap_or(usize::MAX).min(model.context_length);
    if context_length < model.context_length {
        tracing::warn!(
            window = context_length,
            "mistralrs is right within the base's sliding window: longer sequences are not taken"
        );
    }
    Ok(ModelConfig { context_length, ..model })
}
