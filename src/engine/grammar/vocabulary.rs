//! A base's tokens as a tree of bytes, with the tokenizer that spells texts and the tokens that end an answer.

use std::sync::{Arc, OnceLock};

use toktrie::{Recognizer, SimpleVob, TokRxInfo, TokTrie};

use super::GrammarError;
use super::lark::{self, Compiler};
use crate::model::tokenizer::{Specials, Tokenizer};

/// Longer tokens are in no grammar: the tree counts the bytes of a branch in eight bits.
const LONGEST_TOKEN: usize = 128;

/// Bytes by how soon an answer in JSON ends after them. The quote is first, as inside of a text everything is allowed; a comma goes before
/// digits, which numbers could have without end; openings of more come last.
const LANDING: &[u8] = b"\"@}],:.-_/TZ+0123456789ntfabcdeghijklmopqrsuvwxyzABCDEFGHIJKLMNOPQRSUVWXY)>';=!?*&%#$|~^`\\( <[{\n";

/// The quote's place in [`LANDING`].
const QUOTE: usize = 0;

/// What the way to an answer's end has taken: what was taken often is put off, so that no pattern is walked in a circle.
#[derive(Debug, Clone, Default)]
pub(super) struct Landing {
    /// How often each byte, since the last quote that closed something; the quote itself since the beginning.
    taken: Vec<u16>,
    /// Quotes after which there might come another. Those of a JSON object's member are three at most, then one closes its value.
    vain: u16,
    /// Whether the last byte was a quote.
    quoted: bool,
}

impl Landing {
    /// Looks at what the last byte has led to: whether a quote may come (again).
    fn look(&mut self, quote_may_come: bool) {
        if !quote_may_come {
            self.vain = 0;
            if self.quoted {
                self.taken.iter_mut().skip(1).for_each(|taken| *taken = 0);
            }
        } else if self.quoted {
            self.vain = self.vain.saturating_add(1);
        }
        self.quoted = false;
    }

    /// How much is against a byte.
    fn rank(&self, index: usize) -> (u16, usize) {
        // Several may be closed one after another. Texts that end take their quotes, as many as an answer has; where a quote closes
        // nothing there are other ways.
        let patience = match LANDING.get(index) {
            Some(b'"') => 256,
            Some(b'}' | b']') => 16,
            Some(b',' | b':') => 4,
            _ => 1,
        };
        let vain = if index == QUOTE { self.vain / 4 } else { 0 };
        (self.taken.get(index).map_or(0, |taken| taken / patience) + vain, index)
    }

    fn take(&mut self, index: usize) {
        self.quoted = index == QUOTE;
        self.taken.resize(LANDING.len(), 0);
        self.taken[index] = self.taken[index].saturating_add(1);
    }
}

/// A shortest answer is not looked for beyond this, tokens.
const LONGEST_LANDING: usize = 1024;

/// What a base writes with. Cheap to clone; made once for a base.
#[derive(Clone)]
pub struct Vocabulary(Arc<Inner>);

struct Inner {
    trie: Arc<TokTrie>,
    tokenizer: Tokenizer,
    end_tokens: Vec<u32>,
    /// Tokens of the bytes of [`LANDING`], where there are.
    landing: Vec<Option<u32>>,
    /// Made for the first grammar that is written down.
    compiler: OnceLock<Result<Compiler, GrammarError>>,
}

impl Vocabulary {
    /// The tokens of a tokenizer; special ones stand for no text, and `end_tokens` end an answer.
    pub fn new(tokenizer: &Tokenizer, end_tokens: &[u32]) -> Self {
        let count = u32::try_from(tokenizer.vocab_size()).unwrap_or(u32::MAX);
        let words: Vec<Vec<u8>> = (0..count)
            .map(|id| {
                let bytes = tokenizer.token_bytes(id).filter(|bytes| bytes.len() <= LONGEST_TOKEN);
                let is_text = !tokenizer.is_special(id) && !end_tokens.contains(&id);
                bytes.filter(|_| is_text).unwrap_or_default().to_vec()
            })
            .collect();
        let info = TokRxInfo::new(count, end_tokens.first().copied().unwrap_or_default());
        let end_tokens: Vec<u32> = end_tokens.iter().copied().filter(|id| *id < count).collect();
        let trie = TokTrie::from(&info, &words);
        let trie = Arc::new(if end_tokens.is_empty() { trie } else { trie.with_eos_tokens(&end_tokens) });
        let single = |byte: &u8| trie.token_id(&[*byte]).filter(|id| !end_tokens.contains(id));
        let landing = LANDING.iter().map(single).collect();
        Self(Arc::new(Inner { trie, tokenizer: tokenizer.clone(), end_tokens, landing, compiler: OnceLock::new() }))
    }

    /// The token that ends an answer where the grammar says that it ends.
    pub fn end_token(&self) -> Option<u32> {
        self.0.end_tokens.first().copied()
    }

    /// Whether a token ends an answer.
    pub(super) fn ends(&self, id: u32) -> bool {
        self.0.end_tokens.contains(&id)
    }

    fn compiler(&self) -> Result<&Compiler, GrammarError> {
        let compiler = self.0.compiler.get_or_init(|| Compiler::new(&self.0.trie, &self.0.tokenizer));
        compiler.as_ref().map_err(Clone::clone)
    }

    /// The beginning of a grammar that is compiled already, and the tokens of a shortest answer. Compiles nothing.
    pub(super) fn known(&self, source: &str) -> Option<(lark::Place, usize)> {
        self.0.compiler.get()?.as_ref().ok()?.known(source)
    }

    /// The beginning of a grammar that is written down, and the tokens of a shortest answer.
    pub(super) fn compile(&self, source: &str) -> Result<(lark::Place, usize), GrammarError> {
        self.compiler()?.compile(source, |place| self.shortest(place))
    }

    /// Tokens of a shortest answer, or about as many; 0 where no way to its end was found.
    fn shortest(&self, mut place: lark::Place) -> usize {
        let (mut tokens, mut landing) = (place.forced().len(), Landing::default());
        while !place.is_over() && tokens < LONGEST_LANDING {
            let mut allowed = place.allowed(|| self.nothing());
            self.land(&mut allowed, &mut landing);
            let Some(id) = allowed.iter().next().filter(|id| !self.ends(*id)) else { break };
            place.read(id);
            tokens += 1 + place.forced().len();
        }
        if tokens < LONGEST_LANDING { tokens + 1 } else { 0 }
    }

    /// Leaves of what may come what leads to the end of the answer soonest.
    pub(super) fn land(&self, allowed: &mut SimpleVob, landing: &mut Landing) {
        let end = self.0.end_tokens.iter().copied().find(|id| allowed.is_allowed(*id));
        let way = |index: usize| self.0.landing[index].filter(|id| allowed.is_allowed(*id));
        landing.look(way(QUOTE).is_some());
        let way = end.or_else(|| {
            let index = (0..LANDING.len()).filter(|index| way(*index).is_some()).min_by_key(|index| landing.rank(*index))?;
            landing.take(index);
            way(index)
        });
        let Some(way) = way else { return };
        *allowed = self.nothing();
        allowed.allow_token(way);
    }

    /// Any spelling of these bytes.
    pub(super) fn spell_anyhow(&self, bytes: &[u8]) -> Vec<u32> {
        self.0.trie.greedy_tokenize(bytes)
    }

    /// What a token adds to a text, special ones included.
    pub(super) fn said(&self, id: u32) -> &[u8] {
        self.0.tokenizer.token_bytes(id).unwrap_or_default()
    }

    /// No token at all.
    pub(super) fn nothing(&self) -> SimpleVob {
        self.0.trie.alloc_token_set()
    }

    /// The bytes of a token; none of a special one.
    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        if (id as usize) < self.0.trie.vocab_size() { self.0.trie.token(id) } else { &[] }
    }

    /// How the tokenizer spells a text; `None` where it cannot.
    pub(super) fn spell(&self, text: &str) -> Option<Vec<u32>> {
        self.0.tokenizer.encode(text, Specials::Omit).ok()
    }

    /// The tokens whose bytes a reader takes, and those that end an answer where it may end.
    pub(super) fn allowed(&self, reader: &mut impl Recognizer, may_end: bool) -> SimpleVob {
        let mut allowed = self.0.trie.alloc_token_set();
        self.0.trie.add_bias(reader, &mut allowed, &[]);
        if may_end {
            self.0.end_tokens.iter().for_each(|&id| allowed.allow_token(id));
        }
        allowed
    }
}

impl std::fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vocabulary").field("tokens", &self.0.trie.vocab_size()).finish_non_exhaustive()
    }
}
