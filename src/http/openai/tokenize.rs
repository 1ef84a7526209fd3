//! `POST /tokenize` and `/detokenize`, in vLLM's shapes.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Extension, State};
use serde_json::{Value, json};

use super::chat_request::take_prompt;
use super::generation::token_ids;
use crate::gateway::{Prompt, SpecialTokens};
use crate::http::Server;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;
use crate::http::fields::{Fields, Rule};
use crate::tenants::Principal;

/// `POST /tokenize`
pub async fn tokenize(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::body(body)?;
    take_model(&server, &caller, &mut fields)?;
    let text = fields.string("prompt")?;
    let return_strings = fields.boolean("return_token_strs")?.unwrap_or(false);
    let prompt = match text {
        Some(text) => {
            let special = match fields.boolean("add_special_tokens")? {
                Some(false) => SpecialTokens::Omit,
                _ => SpecialTokens::Add,
            };
            fields.finish(&[("messages", Rule::Refused("Send either 'prompt' or 'messages'."))])?;
            Prompt::Text { text, special }
        }
        None => {
            let prompt = take_prompt(&mut fields, SpecialTokens::Omit)?;
            fields.finish(&[
                ("continue_final_message", Rule::Only(&["false"], "Continuing a message is not supported.")),
                ("tools", Rule::Only(&["[]"], "Functions are not counted here; the usage of a chat counts them.")),
                ("chat_template", Rule::Refused("The chat template is the base model's.")),
                ("chat_template_kwargs", Rule::Only(&["{}"], "The chat template takes no options.")),
            ])?;
            prompt
        }
    };
    let tokens = server.gateway().render(prompt).await?.tokens;
    let strings = if return_strings { Some(server.gateway().token_strings(&tokens).await?) } else { None };
    Ok(Json(json!({
        "count": tokens.len(),
        "max_model_len": server.gateway().context_length(),
        "tokens": tokens,
        "token_strs": strings,
    })))
}

/// `POST /detokenize`
pub async fn detokenize(
    State(server): State<Server>,
    Extension(caller): Extension<Arc<Principal>>,
    JsonBody(body): JsonBody,
) -> Result<Json<Value>, ApiError> {
    let mut fields = Fields::body(body)?;
    take_model(&server, &caller, &mut fields)?;
    let tokens = fields.take("tokens").ok_or_else(|| fields.missing("tokens"))?;
    let tokens = token_ids("tokens", tokens, &server.limits())?;
    fields.finish(&[])?;
    Ok(Json(json!({"prompt": server.gateway().decode(tokens).await?})))
}

/// The model may be named; all of them share the base's tokenizer.
fn take_model(server: &Server, caller: &Principal, fields: &mut Fields) -> Result<(), ApiError> {
    if let Some(model) = fields.string("model")? {
        server.gateway().check_model(caller, &model)?;
    }
    Ok(())
}
