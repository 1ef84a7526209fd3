//! How a server is asked: in the usual words, or in those that its refusals have taught. Pure.

use serde_json::{Value, json};

use super::remote::Delivery;

/// What a server is asked otherwise than others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Form {
    /// It wants `max_completion_tokens` and no `max_tokens`.
    pub(super) renamed: bool,
    /// It does not know `stream_options`.
    pub(super) silent: bool,
}

impl Form {
    /// A caller's body as this server is asked.
    pub(super) fn body(self, body: &Value, model: &str, delivery: Delivery) -> Value {
        let mut body = body.clone();
        body["model"] = json!(model);
        if self.renamed
            && body.get("max_completion_tokens").is_none()
            && let Some(most) = body.as_object_mut().and_then(|body| body.shift_remove("max_tokens"))
        {
            body["max_completion_tokens"] = most;
        }
        if delivery == Delivery::Stream {
            body["stream"] = json!(true);
            if !self.silent {
                // Its count is the one that it bills.
                body["stream_options"] = json!({"include_usage": true});
            }
        }
        body
    }

    /// The form to try after a refusal of what was `sent` in this one; `None` where the refusal is not about a field of ours. It
    /// may repeat what the caller wrote: what it teaches is worth keeping only when asking so has succeeded.
    pub(super) fn after(self, sent: &Value, param: Option<&str>, message: &str) -> Option<Self> {
        let is_about = |field: &str| match param {
            Some(param) => param.split(['.', '[']).next() == Some(field),
            None => message.contains(field),
        };
        if !self.silent && sent.get("stream_options").is_some() && is_about("stream_options") {
            return Some(Self { silent: true, ..self });
        }
        // A refusal of its value names the field, too, but not the other one.
        let renames = message.contains("max_completion_tokens") && (is_about("max_tokens") || is_about("max_completion_tokens"));
        (!self.renamed && sent.get("max_tokens").is_some() && renames).then_some(Self { renamed: true, ..self })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn a_cap_is_never_replaced_by_a_larger_one() {
        let form = Form { renamed: true, silent: false };
        let sent = form.body(&json!({"max_tokens": 9}), "m", Delivery::Whole);
        assert_eq!(sent, json!({"model": "m", "max_completion_tokens": 9}));
        let sent = form.body(&json!({"max_completion_tokens": 1, "max_tokens": 32_000}), "m", Delivery::Whole);
        assert_eq!(sent["max_completion_tokens"], 1);
    }

    #[test]
    fn a_refusal_teaches_only_what_it_is_about_and_what_was_sent() {
        let usual = Form::default();
        let sent = usual.body(&json!({"max_tokens": 9}), "m", Delivery::Stream);
        let both = "no stream_options, use max_completion_tokens";
        let silent = Some(Form { silent: true, renamed: false });
        let renamed = Some(Form { silent: false, renamed: true });
        assert_eq!(usual.after(&sent, None, "unknown field stream_options"), silent);
        assert_eq!(usual.after(&sent, Some("stream_options.include_usage"), "no"), silent);
        assert_eq!(usual.after(&sent, Some("messages[0].content"), both), None, "it repeats what the caller wrote");
        assert_eq!(usual.after(&sent, Some("max_tokens"), "Use 'max_completion_tokens' instead."), renamed);
        assert_eq!(usual.after(&sent, Some("max_tokens"), "max_tokens is too large"), None);
        let whole = usual.body(&json!({}), "m", Delivery::Whole);
        assert_eq!(usual.after(&whole, None, both), None, "none of it was sent");
        // Asked so already: it is about something else.
        assert_eq!(Form { silent: true, renamed: true }.after(&sent, None, both), None);
    }
}
