//! Answers that keep to a grammar: which tokens may come next, and which must. Knows token ids and bytes, and nothing of what the
//! answers mean.
//!
//! A [`Grammar`] belongs to one request. It is a [`Pattern`] (bytes, choices, runs of a text that is at hand) over a [`Vocabulary`],
//! and it is walked in bytes, so that every way of spelling an allowed answer is allowed and the model may choose the one that it
//! was trained on. What has only one way to go on is not sampled: its bytes are spelled as the tokenizer spells them ([`walk`]) and go
//! through the next step as one chunk. The tokens that are allowed after it are found on a thread beside ([`masks`]) while that step runs.

mod masks;
mod pattern;
#[cfg(test)]
mod tests;
mod vocabulary;
mod walk;

use std::sync::Arc;

pub(in crate::engine) use masks::Masks;
pub use pattern::{Builder, NodeId, Pattern, Runs};
pub use vocabulary::Vocabulary;
pub(in crate::engine) use walk::Walk;

/// What an answer may be. Compiled once for its request, before that is submitted.
#[derive(Debug)]
pub struct Grammar {
    vocabulary: Vocabulary,
    pattern: Pattern,
    /// Tokens that every answer begins with.
    beginning: Vec<u32>,
}

impl Grammar {
    /// A grammar over a vocabulary.
    pub fn new(vocabulary: Vocabulary, pattern: Pattern) -> Arc<Self> {
        let mut grammar = Self { vocabulary, pattern, beginning: Vec::new() };
        grammar.beginning = walk::Place::start(&grammar).forced(&grammar);
        Arc::new(grammar)
    }

    /// Tokens that every answer begins with.
    pub fn beginning(&self) -> &[u32] {
        &self.beginning
    }

    /// Whether a text is a whole answer.
    pub fn allows(&self, text: &str) -> bool {
        let mut at = self.pattern.start();
        text.bytes().for_each(|byte| at = self.pattern.step(&at, byte));
        self.pattern.may_end(&at)
    }

    /// An answer that nobody chose: the lowest token wherever there is a choice, at most `most` tokens. For backends without a model.
    pub fn any_answer(self: &Arc<Self>, most: usize) -> Vec<u32> {
        let mut walk = Walk::new(Arc::clone(self));
        let mut tokens = self.beginning.clone();
        while !walk.is_over() && tokens.len() < most {
            let Some(id) = walk.allowed().iter().next() else { break };
            tokens.push(id);
            tokens.extend(walk.accept(id));
        }
        tokens.extend(self.vocabulary.end_token().filter(|_| walk.is_over()));
        tokens.truncate(most);
        tokens
    }
}

impl PartialEq for Grammar {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
