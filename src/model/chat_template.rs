//! Chat messages to prompt text.

/// A chat template.
#[derive(Clone)]
pub struct ChatTemplate;
