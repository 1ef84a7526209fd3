//! A base's tokens as a tree of bytes, with the tokenizer that spells texts and the tokens that end an answer.

use std::sync::{Arc, OnceLock};

use toktrie::{Recognizer, SimpleVob, TokRxInfo, TokTrie};

use super::GrammarError;
use super::lark::{self, Compiler};
use crate::model::tokenizer::{Specials, Tokenizer};

/// Longer tokens are in no grammar: the tree counts the bytes of a branch in eight bits.
const LONGEST_TOKEN: usize = 128;

/// What a base writes with. Cheap to clone; made once for a base.
#[derive(Clone)]
pub struct Vocabulary(Arc<Inner>);

struct Inner {
    trie: Arc<TokTrie>,
    tokenizer: Tokenizer,
    end_tokens: Vec<u32>,
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
        Self(Arc::new(Inner { trie, tokenizer: tokenizer.clone(), end_tokens, compiler: OnceLock::new() }))
    }

    /// The token that ends an answer where the grammar says that it ends.
    pub fn end_token(&self) -> Option<u32> {
        self.0.end_tokens.first().copied()
    }

    /// Whether a token ends an answer.
    pub(super) fn ends(&self, id: u32) -> bool {
        self.0.end_tokens.contains(&id)
    }

    /// The beginning of a grammar that is written down.
    pub(super) fn compile(&self, source: &str) -> Result<lark::Place, GrammarError> {
        let compiler = self.0.compiler.get_or_init(|| Compiler::new(&self.0.trie, &self.0.tokenizer));
        compiler.as_ref().map_err(Clone::clone)?.compile(source)
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
