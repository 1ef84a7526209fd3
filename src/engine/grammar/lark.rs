//! Grammars that are written down: llguidance's dialect of Lark, compiled once for each text, over a vocabulary.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use llguidance::api::{ParserLimits, TopLevelGrammar};
use llguidance::{Matcher, ParserFactory};
use moka::sync::Cache;
use sha2::{Digest, Sha256};
use toktrie::{SimpleVob, TokEnv, TokTrie, TokenId, TokenizerEnv};

use super::GrammarError;
use crate::model::tokenizer::{Specials, Tokenizer};

/// Compiled grammars that are kept.
const KEPT: u64 = 128;
/// Longest text of a grammar, bytes.
const MOST_BYTES: usize = 256 * 1024;
/// Deepest nesting of brackets in it, whatever they mean: compiling recurses.
const DEEPEST: usize = 400;
/// Work for compiling, and symbols of the grammar. A tenth of llguidance's own bound on work: with more, a long run of `a?` takes a minute.
const COMPILING_WORK: u64 = 60_000;
const MOST_SYMBOLS: usize = 200_000;
/// States of the automaton that finds words, 1 to 2 kB each.
const MOST_STATES: usize = 50_000;
/// A grammar that takes longer to compile and to walk once on its shortest way would hold up whoever shares a step with it.
const LONGEST: Duration = Duration::from_secs(3);
/// Work for one set of tokens: about 5 ms, as everybody may have to wait for it (llguidance's measures: 14,000 a millisecond, 20,000 a
/// millisecond).
const LEXER_WORK: u64 = 50_000;
const PARSER_WORK: usize = 20_000;

/// Compiles grammars over a vocabulary, and keeps them.
pub(super) struct Compiler {
    factory: ParserFactory,
    /// By the SHA-256 of the text.
    compiled: Cache<[u8; 32], Arc<Compiled>>,
}

struct Compiled {
    matcher: Mutex<Matcher>,
    /// Tokens of a shortest answer.
    shortest: usize,
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
            initial_lexer_fuel: COMPILING_WORK,
            max_grammar_size: MOST_SYMBOLS,
            max_lexer_states: MOST_STATES,
            verbose_errors: false,
            ..ParserLimits::default()
        };
        *factory.quiet().limits_mut() = limits;
        Ok(Self { factory, compiled: Cache::new(KEPT) })
    }

    /// The beginning of a grammar that was compiled before and is still at hand, and the tokens of a shortest answer.
    pub(super) fn known(&self, source: &str) -> Option<(Place, usize)> {
        let known = self.compiled.get(&digest(source))?;
        let matcher = known.matcher.lock().unwrap_or_else(PoisonError::into_inner);
        // Its own tables: requests do not wait for each other, nor fill each other's.
        Some((Place(Box::new(matcher.deep_clone())), known.shortest))
    }

    /// The same of a grammar that may be new; `measure` finds its shortest answer.
    pub(super) fn compile(&self, source: &str, measure: impl FnOnce(Place) -> usize) -> Result<(Place, usize), GrammarError> {
        if source.len() > MOST_BYTES {
            return Err(GrammarError::TooLong { bytes: source.len(), limit: MOST_BYTES });
        }
        if let Some(known) = self.known(source) {
            return Ok(known);
        }
        if depth(source) > DEEPEST {
            return Err(GrammarError::Invalid(format!("its brackets are more than {DEEPEST} deep")));
        }
        let began = Instant::now();
        let grammar = TopLevelGrammar::from_lark(source.to_owned());
        let matcher = Matcher::new(self.factory.create_parser(grammar));
        if let Some(problem) = matcher.get_error() {
            return Err(GrammarError::Invalid(problem));
        }
        // What is found on the shortest way is known to all who come later.
        let shortest = measure(Place(Box::new(matcher.clone())));
        // A lexer that is full at once would end every answer with a fault of ours.
        matcher.clone().compute_mask_or_eos().map_err(refused)?;
        if began.elapsed() > LONGEST {
            return Err(GrammarError::TooSlow { took: began.elapsed() });
        }
        let place = Place(Box::new(matcher.deep_clone()));
        self.compiled.insert(digest(source), Arc::new(Compiled { matcher: Mutex::new(matcher), shortest }));
        Ok((place, shortest))
    }
}

/// The grammar of a whole regular expression.
pub(super) fn regex(expression: &str) -> String {
    format!("start: /{}/", llguidance::regex_to_lark(expression, ""))
}

fn digest(source: &str) -> [u8; 32] {
    Sha256::digest(source).into()
}

/// Most brackets that are open at once. Those in quotes count as well: what a quote is depends on the grammar's own syntax.
fn depth(source: &str) -> usize {
    let (mut open, mut most) = (0_usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open += 1,
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
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

    /// Reads tokens, if they may come.
    pub(super) fn try_read(&mut self, ids: &[u32]) -> bool {
        self.0.try_consume_tokens(ids).is_ok_and(|read| read == ids.len())
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
        // A special token that is written in a text stands for no bytes here.
        let is_text = |ids: &Vec<u32>| ids.iter().all(|id| !self.trie.token(*id).is_empty());
        spelled.filter(is_text).unwrap_or_else(|| self.trie.greedy_tokenize(bytes))
    }
}
