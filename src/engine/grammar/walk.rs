//! Where one answer is in its grammar. A state machine over tokens; nothing of sampling or steps.

use std::sync::Arc;

use toktrie::SimpleVob;

use super::Grammar;
use super::masks::{Coming, Masks};
use super::pattern::{At, Reader};

/// With more ways to go on than this after forced bytes, the last token of those is left to the model.
const MOST_WAYS: usize = 12;

/// The state of one answer.
#[derive(Debug)]
pub struct Walk {
    grammar: Arc<Grammar>,
    place: Place,
    coming: Option<Coming>,
}

/// A place in a grammar, and the way to it.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    at: At,
    /// The answer's bytes so far.
    text: Vec<u8>,
    /// Its tokens.
    tokens: Vec<u32>,
}

impl Walk {
    /// After the grammar's beginning.
    pub(in crate::engine) fn new(grammar: Arc<Grammar>) -> Self {
        let mut place = Place::start(&grammar);
        grammar.beginning.iter().for_each(|&id| place.read(&grammar, id));
        Self { grammar, place, coming: None }
    }

    /// Notes a token that was chosen; the tokens that must follow, noted as well.
    pub(in crate::engine) fn accept(&mut self, id: u32) -> Vec<u32> {
        self.coming = None;
        self.place.read(&self.grammar, id);
        self.place.forced(&self.grammar)
    }

    /// Whether only the end is left.
    pub(in crate::engine) fn is_over(&self) -> bool {
        let pattern = &self.grammar.pattern;
        pattern.may_end(&self.place.at) && pattern.next_bytes(&self.place.at).is_empty()
    }

    /// Whether a token ends the answer.
    pub(in crate::engine) fn ends(&self, id: u32) -> bool {
        self.grammar.vocabulary.ends(id)
    }

    /// The token that ends the answer.
    pub(in crate::engine) fn end_token(&self) -> Option<u32> {
        self.grammar.vocabulary.end_token()
    }

    /// Has the tokens that may come next looked for meanwhile.
    pub(in crate::engine) fn prepare(&mut self, masks: &mut Masks) {
        self.coming = masks.order(&self.grammar, &self.place.at);
    }

    /// The tokens that may come next.
    pub(in crate::engine) fn allowed(&mut self) -> SimpleVob {
        let coming = self.coming.take().and_then(Coming::take);
        coming.unwrap_or_else(|| self.grammar.allowed_at(&self.place.at))
    }
}

impl Place {
    /// Before the first byte.
    pub(super) fn start(grammar: &Grammar) -> Self {
        Self { at: grammar.pattern.start(), ..Self::default() }
    }

    fn read(&mut self, grammar: &Grammar, id: u32) {
        let bytes = grammar.vocabulary.bytes(id);
        for &byte in bytes {
            self.at = grammar.pattern.step(&self.at, byte);
        }
        self.text.extend_from_slice(bytes);
        self.tokens.push(id);
    }

    /// The tokens that must come next, as the tokenizer spells them in this place, whatever comes after them; read as well.
    pub(super) fn forced(&mut self, grammar: &Grammar) -> Vec<u32> {
        let tokens = self.spell_forced(grammar).unwrap_or_default();
        tokens.iter().for_each(|&id| self.read(grammar, id));
        tokens
    }

    fn spell_forced(&self, grammar: &Grammar) -> Option<Vec<u32>> {
        let (vocabulary, pattern) = (&grammar.vocabulary, &grammar.pattern);
        let mut at = self.at.clone();
        let mut text = self.text.clone();
        let mut ways = pattern.next_bytes(&at);
        while ways.len() == 1 && !pattern.may_end(&at) {
            at = pattern.step(&at, ways[0]);
            text.push(ways[0]);
            ways = pattern.next_bytes(&at);
        }
        if text.len() == self.text.len() {
            return None;
        }
        let whole = std::str::from_utf8(&text).map_or_else(|error| error.valid_up_to(), str::len);
        let is_cut = whole < text.len();
        let text = std::str::from_utf8(text.get(..whole)?).ok()?;
        let mut spelled = vocabulary.spell(text)?;
        // What follows may be in one token with what is forced: only what is spelled the same whatever follows is certain.
        if is_cut || ways.len() > MOST_WAYS || !ways.is_ascii() {
            spelled.pop();
        } else {
            for &way in &ways {
                let longer = vocabulary.spell(&format!("{text}{}", char::from(way)))?;
                let same = spelled.iter().zip(&longer).take_while(|(one, other)| one == other).count();
                spelled.truncate(same);
            }
        }
        // Where the model has spelled otherwise it goes on by itself.
        let tokens = spelled.strip_prefix(self.tokens.as_slice())?;
        let bytes: Vec<u8> = tokens.iter().flat_map(|&id| vocabulary.bytes(id)).copied().collect();
        text.as_bytes().get(self.text.len()..)?.starts_with(&bytes).then(|| tokens.to_vec())
    }
}

impl Grammar {
    /// The tokens that may come at a place.
    pub(super) fn allowed_at(&self, at: &[u32]) -> SimpleVob {
        self.vocabulary.allowed(&mut Reader::new(&self.pattern, at), self.pattern.may_end(at))
    }
}
