//! Answers that keep to a grammar: which tokens may come next, and which must. Knows token ids and bytes, and nothing of what the
//! answers mean.
//!
//! A [`Grammar`] belongs to one request, over a [`Vocabulary`]. It is a [`Pattern`] (bytes, choices, runs of a text that is at hand), or
//! written down in llguidance's dialect of Lark (`lark`), compiled once. Both are walked in bytes, so that every way of spelling an
//! allowed answer is allowed and the model may choose the one that it was trained on. An answer that is about to run out of room takes
//! the shortest way to its end. A grammar may begin in the middle of an answer, where that gives its cue. What has only one way to go on is not sampled:
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
use std::time::{Duration, Instant};

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
    /// It takes too much work.
    #[error("the grammar took {took:?} to compile; expected something simpler")]
    TooSlow {
        /// How long.
        took: Duration,
    },
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
    /// So many of them come before the rules.
    opening: usize,
    /// What an answer has to say before the rules are its.
    cue: Option<Cue>,
    /// Tokens that are kept for the shortest way to the end; 0 where none is known.
    landing: usize,
}

/// Where in an answer its grammar begins.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Begins {
    /// At its beginning.
    #[default]
    AtOnce,
    /// After this text, which every answer begins with; it may have special tokens.
    After(String),
    /// Where the answer says this, if it ever does; what comes before is free.
    At(Cue),
}

/// What an answer says where its grammar begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cue {
    /// The text; special tokens are written as the vocabulary spells them.
    pub text: String,
    /// Where it counts.
    pub place: CuePlace,
}

/// Where a cue counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CuePlace {
    /// Wherever it is said first.
    Anywhere,
    /// Only where the answer begins with it, spaces aside.
    Start,
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
        Self::over(vocabulary, Rules::Pattern(pattern)).begun()
    }

    /// A grammar in Lark (as llguidance reads it) over a vocabulary. Compiling may take tens of milliseconds and much stack; the same
    /// text is compiled once.
    pub fn lark(vocabulary: Vocabulary, source: &str, begins: Begins) -> Result<Arc<Self>, GrammarError> {
        let compiled = vocabulary.compile(source)?;
        Self::at(vocabulary, compiled, begins)
    }

    /// The same of a text that was compiled before, where that is still at hand: it takes neither long nor much stack.
    pub fn known(vocabulary: Vocabulary, source: &str, begins: Begins) -> Option<Result<Arc<Self>, GrammarError>> {
        let compiled = vocabulary.known(source)?;
        Some(Self::at(vocabulary, compiled, begins))
    }

    fn at(vocabulary: Vocabulary, (place, shortest): (lark::Place, usize), begins: Begins) -> Result<Arc<Self>, GrammarError> {
        let mut grammar = Self::over(vocabulary, Rules::Lark(place));
        // Half as much again: an answer is somewhere in its middle when it has to land. Where no way to the end is known it goes as it
        // likes as long as it has room.
        grammar.landing = if shortest == 0 { 0 } else { shortest + shortest / 2 + 16 };
        match begins {
            Begins::AtOnce => {}
            Begins::After(text) => {
                let opening = grammar.vocabulary.spell(&text);
                let opening = opening.ok_or_else(|| GrammarError::Invalid(format!("no tokens spell its beginning, {text:?}")))?;
                grammar.opening = opening.len();
                grammar.beginning = opening;
            }
            Begins::At(cue) => grammar.cue = Some(cue),
        }
        Ok(grammar.begun())
    }

    fn over(vocabulary: Vocabulary, rules: Rules) -> Self {
        Self { vocabulary, rules, beginning: Vec::new(), opening: 0, cue: None, landing: 0 }
    }

    fn begun(mut self) -> Arc<Self> {
        if self.cue.is_none() {
            let forced = walk::Place::start(&self).forced(&self);
            self.beginning.extend(forced);
        }
        Arc::new(self)
    }

    /// Tokens that every answer begins with.
    pub fn beginning(&self) -> &[u32] {
        &self.beginning
    }

    /// An answer that nobody chose, at most `most` tokens: the shortest, or the lowest token wherever there is a choice. For backends
    /// without a model. `None` where answers begin free.
    pub fn any_answer(self: &Arc<Self>, most: usize) -> Option<Vec<u32>> {
        if self.cue.is_some() {
            return None;
        }
        let mut walk = Walk::new(Arc::clone(self));
        let mut tokens = self.beginning.clone();
        while !walk.is_over() && tokens.len() < most {
            // Patterns are short whatever is chosen.
            let allowed = walk.allowed(if self.landing > 0 { Room::NONE } else { Room::PLENTY });
            let Some(id) = allowed.iter().next() else { break };
            tokens.push(id);
            if walk.ends(id) {
                break;
            }
            tokens.extend(walk.accept(id));
        }
        tokens.extend(self.vocabulary.end_token().filter(|_| walk.is_over()));
        tokens.truncate(most);
        Some(tokens)
    }

    /// An answer of at most `most` tokens by whoever `draw`s one of so many, with the time that each set of allowed tokens took: for
    /// measuring.
    pub fn drawn_answer(self: &Arc<Self>, most: usize, draw: &mut dyn FnMut(usize) -> usize) -> (Vec<u32>, Vec<Duration>) {
        let mut walk = Walk::new(Arc::clone(self));
        let (mut tokens, mut times) = (self.beginning.clone(), Vec::new());
        while !walk.is_over() && tokens.len() < most {
            let began = Instant::now();
            let allowed = walk.allowed(Room { left: most - tokens.len(), all: most });
            times.push(began.elapsed());
            let Some(id) = allowed.iter().nth(draw(allowed.num_set())) else { break };
            tokens.push(id);
            if walk.ends(id) {
                break;
            }
            tokens.extend(walk.accept(id));
        }
        (tokens, times)
    }

    /// Whether an answer with so much room has to take the shortest way to its end. At least half of its room it goes as it likes.
    fn lands(&self, room: Room) -> bool {
        room.left <= self.landing.min(room.all / 2)
    }
}

/// Tokens that an answer has room for.
#[derive(Debug, Clone, Copy)]
pub(in crate::engine) struct Room {
    /// Now.
    pub(in crate::engine) left: usize,
    /// At its beginning.
    pub(in crate::engine) all: usize,
}

impl Room {
    /// More than any answer takes.
    const PLENTY: Self = Self { left: usize::MAX, all: usize::MAX };
    /// As little as can be.
    const NONE: Self = Self { left: 0, all: usize::MAX };
}

/// The rules of answers that a regular expression matches as a whole.
pub fn regex_rules(expression: &str) -> String {
    lark::regex(expression)
}

impl PartialEq for Grammar {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}
