//! Text to token ids and back.

/// A tokenizer.
#[derive(Clone)]
pub struct Tokenizer;
