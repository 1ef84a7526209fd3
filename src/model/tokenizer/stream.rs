//! Token ids to text, one at a time. Knows no vocabulary's spelling.

use super::{Specials, Tokenizer};

/// Text of a sequence as its tokens come: a character is given out once, when its last byte is there.
#[derive(Debug, Clone)]
pub struct TextStream {
    tokenizer: Tokenizer,
    specials: Specials,
    pending: Vec<u8>,
    drops_space: bool,
}

impl TextStream {
    /// At the beginning of a text; `drops_space` leaves out one space there.
    pub(super) const fn new(tokenizer: Tokenizer, specials: Specials, drops_space: bool) -> Self {
        Self { tokenizer, specials, pending: Vec::new(), drops_space }
    }

    /// Adds a token; returns the text that became complete, which may be empty.
    pub fn push(&mut self, id: u32) -> String {
        if self.specials == Specials::Omit && self.tokenizer.is_special(id) {
            return String::new();
        }
        let mut bytes = self.tokenizer.token_bytes(id).unwrap_or_default();
        if self.drops_space && !bytes.is_empty() {
            self.drops_space = false;
            bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
        }
        // Nearly every token is whole characters.
        if self.pending.is_empty()
            && let Ok(text) = std::str::from_utf8(bytes)
        {
            return text.to_owned();
        }
        self.pending.extend_from_slice(bytes);
        self.take_complete()
    }

    /// The end: what is left of an unfinished character becomes one replacement character.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }

    /// Bytes that wait for the rest of their character.
    pub fn pending(&self) -> &[u8] {
        &self.pending
    }

    /// Takes everything but an unfinished last character; bytes that can never become one turn into replacement characters.
    fn take_complete(&mut self) -> String {
        let mut text = String::new();
        let mut rest = &self.pending[..];
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }
}
