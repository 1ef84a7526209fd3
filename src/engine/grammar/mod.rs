//! Answers that keep to a grammar: which tokens may come next, and which must. Knows token ids and bytes, and nothing of what the
//! answers mean.
//!
//! A [`Grammar`] belongs to one request, over a [`Vocabulary`]. It is a [`Pattern`] (bytes, choices, runs of a text that is at hand), or
//! written down in llguidance's dialect of Lark (`lark`), compiled once. Both are walked in bytes, so that every way of spelling an
//! allowed answer is allowed and the model may choose the one that it was trained on. What has only one way to go on is not sampled:
//! it is spelled as the tokenizer spells it (`walk`) and goes through the next step as one chunk. The tokens that are allowed after
//! it are found on a thread beside (`masks`) while that step runs.

mod lark;
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

/// A grammar cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// It is not one; the text says why.
    #[error("the grammar cannot be used: {0}")]
    Invalid(String),
    /// It is too long.
    #[error("the grammar has {bytes} bytes; at most {limit} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
        /// The longest that there may be.
        limit: usize,
    },
}

/// What an answer may be. Made for its request, before that is submitted.
#[derive(Debug)]
pub struct Grammar {
    vocabulary: Vocabulary,
    rules: Rules,
    /// Tokens that every answer begins with.
    beginning: Vec<u32>,
}

#[derive(Debug)]
enum Rules {
    Pattern(Pattern),
    /// At its beginning.
    Lark(lark::Place),
}

impl Grammar {
    /// A pattern over a vocabulary.
    pub fn new(vocabulary: Vocabulary, pattern: Pattern) -> Arc<Self> {
        Self::begun(vocabulary, Rules::Pattern(pattern))
    }

    /// A grammar in Lark (as llguidance reads it) over a vocabulary. Compiling may take milliseconds; the same text is compiled once.
    pub fn lark(vocabulary: Vocabulary, source: &str) -> Result<Arc<Self>, GrammarError> {
        let place = vocabulary.compile(source)?;
        Ok(Self::begun(vocabulary, Rules::Lark(place)))
    }

    fn begun(vocabulary: Vocabulary, rules: Rules) -> Arc<Self> {
        let mut grammar = Self { vocabulary, rules, beginning: Vec::new() };
        grammar.beginning = walk::Place::start(&grammar).forced(&grammar);
        Arc::new(grammar)
    }

    /// Tokens that every answer begins with.
    pub fn beginning(&self) -> &[u32] {
        &self.beginning
    }

    /// An answer that nobody chose: the lowest token wherever there is a choice, at most `most` tokens. For backends without a model.
    pub fn any_answer(self: &Arc<Self>, most: usize) -> Vec<u32> {
        let mut walk = Walk::new(Arc::clone(self));
        let mut tokens = self.beginning.clone();
        while !walk.is_over() && tokens.len() < most {
            let Some(id) = walk.allowed().iter().next() else { break };
            tokens.push(id);
            if walk.ends(id) {
                break;
            }
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
