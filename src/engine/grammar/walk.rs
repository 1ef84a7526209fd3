//! Where one answer is in its grammar. A state machine over tokens; nothing of sampling or steps.

use std::sync::Arc;

use toktrie::SimpleVob;

use super::masks::{Coming, Masks};
use super::pattern::{At, Pattern, Reader};
use super::vocabulary::Landing;
use super::{CuePlace, Grammar, Room, Rules, Vocabulary, lark};

/// With more ways to go on than this after forced bytes, the last token of those is left to the model.
const MOST_WAYS: usize = 12;

/// The state of one answer.
#[derive(Debug)]
pub struct Walk {
    grammar: Arc<Grammar>,
    place: Place,
    coming: Option<Coming>,
    /// What the answer has said so far, where its grammar waits for a cue.
    free: Option<Free>,
    /// The way to its end, once it is on it.
    landing: Landing,
}

/// The part of an answer that is free.
#[derive(Debug, Default)]
struct Free {
    said: Vec<u8>,
    /// The cue cannot come any more.
    forever: bool,
}

/// A place in a grammar.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Pattern(InPattern),
    Lark(lark::Place),
}

/// A place in a pattern, and the way to it.
#[derive(Debug, Clone)]
pub(super) struct InPattern {
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
        grammar.beginning.iter().skip(grammar.opening).for_each(|&id| place.read(&grammar, id));
        let free = grammar.cue.as_ref().map(|_| Free::default());
        Self { grammar, place, coming: None, free, landing: Landing::default() }
    }

    /// Whether the grammar has begun.
    pub(in crate::engine) const fn binds(&self) -> bool {
        self.free.is_none()
    }

    /// Notes a token that was chosen; the tokens that must follow, noted as well.
    pub(in crate::engine) fn accept(&mut self, id: u32) -> Vec<u32> {
        self.coming = None;
        if self.binds() {
            self.place.read(&self.grammar, id);
        } else if !self.listen(id) {
            return Vec::new();
        }
        self.place.forced(&self.grammar)
    }

    /// Hears a token of the free part; whether the grammar begins there.
    fn listen(&mut self, id: u32) -> bool {
        let (Some(free), Some(cue)) = (self.free.as_mut().filter(|free| !free.forever), &self.grammar.cue) else { return false };
        let (vocabulary, text) = (&self.grammar.vocabulary, cue.text.as_bytes());
        free.said.extend_from_slice(vocabulary.said(id));
        let after = match cue.place {
            CuePlace::Anywhere => {
                let found = free.said.windows(text.len()).position(|window| window == text);
                if found.is_none() {
                    free.said.drain(..free.said.len().saturating_sub(text.len()));
                }
                found.map(|start| start + text.len())
            }
            CuePlace::Start => {
                let said = free.said.trim_ascii_start();
                free.forever = !said.starts_with(text) && !text.starts_with(said);
                said.starts_with(text).then(|| free.said.len() - said.len() + text.len())
            }
        };
        let Some(after) = after else { return false };
        // The token may have more bytes than the cue: if they are no beginning, the answer only looked like it.
        let rest = vocabulary.spell_anyhow(&free.said[after..]);
        if self.place.try_read(&rest) {
            self.free = None;
            return true;
        }
        self.place = Place::start(&self.grammar);
        free.forever = cue.place == CuePlace::Start;
        free.said.drain(..after);
        false
    }

    /// Whether only the end is left.
    pub(in crate::engine) fn is_over(&self) -> bool {
        self.binds()
            && match (&self.place, &self.grammar.rules) {
                (Place::Pattern(place), Rules::Pattern(pattern)) => {
                    pattern.may_end(&place.at) && pattern.next_bytes(&place.at).is_empty()
                }
                (Place::Lark(place), _) => place.is_over(),
                (Place::Pattern(_), Rules::Lark(_)) => true,
            }
    }

    /// Whether a token ends the answer.
    pub(in crate::engine) fn ends(&self, id: u32) -> bool {
        self.binds() && self.grammar.vocabulary.ends(id)
    }

    /// The token that ends the answer.
    pub(in crate::engine) fn end_token(&self) -> Option<u32> {
        self.grammar.vocabulary.end_token()
    }

    /// Has the tokens that may come next looked for meanwhile.
    pub(in crate::engine) fn prepare(&mut self, masks: &mut Masks) {
        if self.binds() {
            self.coming = masks.order(&self.grammar, self.place.clone());
        }
    }

    /// The tokens that may come next, where there is so much room.
    pub(in crate::engine) fn allowed(&mut self, room: Room) -> SimpleVob {
        let coming = self.coming.take().and_then(Coming::take);
        let mut allowed = coming.unwrap_or_else(|| self.place.allowed(&self.grammar));
        if self.grammar.lands(room) {
            self.grammar.vocabulary.land(&mut allowed, &mut self.landing);
        }
        allowed
    }
}

impl Place {
    /// Before the first byte.
    pub(super) fn start(grammar: &Grammar) -> Self {
        match &grammar.rules {
            Rules::Pattern(pattern) => Self::Pattern(InPattern { at: pattern.start(), text: Vec::new(), tokens: Vec::new() }),
            Rules::Lark(start) => Self::Lark(start.apart()),
        }
    }

    fn read(&mut self, grammar: &Grammar, id: u32) {
        match (self, &grammar.rules) {
            (Self::Pattern(place), Rules::Pattern(pattern)) => place.read(&grammar.vocabulary, pattern, id),
            (Self::Lark(place), _) => place.read(id),
            (Self::Pattern(_), Rules::Lark(_)) => {}
        }
    }

    /// Reads tokens, if they may come; otherwise the place is lost.
    fn try_read(&mut self, ids: &[u32]) -> bool {
        match self {
            Self::Lark(place) => place.try_read(ids),
            Self::Pattern(_) => ids.is_empty(),
        }
    }

    /// The tokens that must come next, as the tokenizer spells them in this place, whatever comes after them; read as well.
    pub(super) fn forced(&mut self, grammar: &Grammar) -> Vec<u32> {
        match (self, &grammar.rules) {
            (Self::Pattern(place), Rules::Pattern(pattern)) => {
                let tokens = place.spell_forced(&grammar.vocabulary, pattern).unwrap_or_default();
                tokens.iter().for_each(|&id| place.read(&grammar.vocabulary, pattern, id));
                tokens
            }
            (Self::Lark(place), _) => place.forced(),
            (Self::Pattern(_), Rules::Lark(_)) => Vec::new(),
        }
    }

    /// The tokens that may come next.
    pub(super) fn allowed(&mut self, grammar: &Grammar) -> SimpleVob {
        match (self, &grammar.rules) {
            (Self::Pattern(place), Rules::Pattern(pattern)) => {
                grammar.vocabulary.allowed(&mut Reader::new(pattern, &place.at), pattern.may_end(&place.at))
            }
            (Self::Lark(place), _) => place.allowed(|| grammar.vocabulary.nothing()),
            (Self::Pattern(_), Rules::Lark(_)) => grammar.vocabulary.nothing(),
        }
    }
}

impl InPattern {
    fn read(&mut self, vocabulary: &Vocabulary, pattern: &Pattern, id: u32) {
        let bytes = vocabulary.bytes(id);
        for &byte in bytes {
            self.at = pattern.step(&self.at, byte);
        }
        self.text.extend_from_slice(bytes);
        self.tokens.push(id);
    }

    fn spell_forced(&self, vocabulary: &Vocabulary, pattern: &Pattern) -> Option<Vec<u32>> {
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
