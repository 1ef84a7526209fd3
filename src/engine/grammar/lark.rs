//! Grammars that are written down: llguidance's dialect of Lark, compiled once for each text, over a vocabulary.

use std::sync::{Arc, Mutex, PoisonError};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use moka::sync::Cache;
use toktrie::{SimpleVob, TokEnv, TokTrie, TokenId, TokenizerEnv};

use super::GrammarError;
use crate::model::tokenizer::{Specials, Tokenizer};

/// Compiled grammars that are kept.
const KEPT: u64 = 64;
/// Longest text of a grammar, bytes.
const MOST_BYTES: usize = 64 * 1024;
/// Work for one set of tokens: about 5 ms, as everybody may have to wait for it (llguidance's measures: 14,000 a millisecond, 20,000 a
/// millisecond).
const LEXER_WORK: u64 = 50_000;
const PARSER_WORK: usize = 20_000;

/// Compiles grammars over a vocabulary, and keeps them.
pub(super) struct Compiler {
    factory: ParserFactory,
    compiled: Cache<Box<str>, Arc<Mutex<Matcher>>>,
}

/// Where an answer is in a compiled grammar.
pub(super) struct Place(Box<Matcher>);

impl Compiler {
    pub(super) fn new(trie: &Arc<TokTrie>, tokenizer: &Tokenizer) -> Result<Self, GrammarError> {
        let env: TokEnv = Arc::new(Env { trie: Arc::clone(trie), tokenizer: tokenizer.clone() });
        let mut factory = ParserFactory::new_simple(&env).map_err(refused)?;
        let limits = ParserLimits {
            step_lexer_fuel: LEXER_WORK,
            step_max_items: PARSER_WORK,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        *factory.quiet().limits_mut() = limits;
        Ok(Self { factory, compiled: Cache::new(KEPT) })
    }

    /// The beginning of a grammar.
    pub(super) fn compile(&self, source: &str) -> Result<Place, GrammarError> {
        if source.len() > MOST_BYTES {
            return Err(GrammarError::TooLong { bytes: source.len(), limit: MOST_BYTES });
        }
        let known = match self.compiled.get(source) {
            Some(known) => known,
            None => {
                let grammar = TopLevelGrammar::from_lark(source.to_owned());
                let matcher = Matcher::new(self.factory.create_parser(grammar));
                if let Some(problem) = matcher.get_error() {
                    return Err(GrammarError::Invalid(problem));
                }
                let known = Arc::new(Mutex::new(matcher));
                self.compiled.insert(source.into(), Arc::clone(&known));
                known
            }
        };
        let known = known.lock().unwrap_or_else(PoisonError::into_inner);
        // Its own tables: requests do not wait for each other, nor fill each other's.
        Ok(Place(Box::new(known.deep_clone())))
    }
}

impl std::fmt::Debug for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Place").finish_non_exhaustive()
    }
}

impl Clone for Place {
    /// The same tables: what one finds helps the other.
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl Place {
    /// The same place with tables of its own.
    pub(super) fn apart(&self) -> Self {
        Self(Box::new(self.0.deep_clone()))
    }

    pub(super) fn read(&mut self, id: u32) {
        // What cannot be read shows at the next look.
        let _ = self.0.consume_token(id);
    }

    /// The tokens that must come next; read as well.
    pub(super) fn forced(&mut self) -> Vec<u32> {
        self.0.consume_ff_tokens()
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.is_stopped() && !self.0.is_error()
    }

    /// The tokens that may come next; none where it took more work than is allowed.
    pub(super) fn allowed(&mut self, nothing: impl FnOnce() -> SimpleVob) -> SimpleVob {
        self.0.compute_mask_or_eos().unwrap_or_else(|error| {
            tracing::warn!(%error, "a grammar cannot go on");
            nothing()
        })
    }
}

fn refused(error: impl std::fmt::Display) -> GrammarError {
    GrammarError::Invalid(error.to_string())
}

/// The tokenizer as llguidance knows one.
struct Env {
    trie: Arc<TokTrie>,
    tokenizer: Tokenizer,
}

impl TokenizerEnv for Env {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        let spelled = std::str::from_utf8(bytes).ok().and_then(|text| self.tokenizer.encode(text, Specials::Omit).ok());
        spelled.unwrap_or_else(|| self.trie.greedy_tokenize(bytes))
    }
}
