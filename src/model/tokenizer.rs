//! Text to token ids and back, whole and piece by piece. Knows no model and no file format but `tokenizer.json`.

mod alphabet;
mod fast;
mod seen;
pub mod splitting;
mod stream;

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use serde_json::Value;

use crate::model::ModelError;
use alphabet::byte_of;
use fast::FastEncoder;
pub use stream::TextStream;

/// What becomes of special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Specials {
    /// Encoding adds the configured beginning (and end) of text; decoding writes special tokens out.
    Keep,
    /// Encoding adds nothing; decoding leaves special tokens out.
    Omit,
}

/// Where decoded text stands: some vocabularies (SentencePiece) drop one space at the very beginning of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// The text begins here.
    Start,
    /// Text came before: a completion that continues its prompt.
    Middle,
}

/// How tokens spell bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// Every byte is written as a printable character (GPT-2).
    ByteLevel,
    /// `▁` is a space, `<0x0A>` a byte (SentencePiece with byte fallback).
    SentencePiece {
        /// One space at the beginning of a text was added by encoding.
        drops_first_space: bool,
    },
}

struct Inner {
    tokenizer: tokenizers::Tokenizer,
    /// The short way, where there is one.
    fast: Option<FastEncoder>,
    spelling: Spelling,
    special: HashSet<u32>,
    bytes: TokenBytes,
    vocab_size: usize,
    bos: Option<u32>,
}

/// A tokenizer; cheap to clone.
#[derive(Clone)]
pub struct Tokenizer(Arc<Inner>);

impl Tokenizer {
    /// Reads the content of a `tokenizer.json`.
    pub fn from_json(bytes: &[u8]) -> Result<Self, ModelError> {
        let mut tokenizer = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| invalid(&error.to_string()))?;
        // Both are leftovers of training: a prompt is never cut or padded here.
        tokenizer.with_truncation(None).map_err(|error| invalid(&error.to_string()))?;
        tokenizer.with_padding(None);
        let decoder = serde_json::to_value(tokenizer.get_decoder()).map_err(|error| invalid(&error.to_string()))?;
        let spelling = spelling(&decoder)?;
        let special =
            tokenizer.get_added_tokens_decoder().into_iter().filter(|(_, token)| token.special).map(|(id, _)| id).collect();
        let vocab_size = tokenizer.get_vocab(true).into_values().max().map_or(0, |id| id as usize + 1);
        if vocab_size == 0 {
            return Err(invalid("it has no tokens"));
        }
        let bytes = TokenBytes::new(&tokenizer, spelling, vocab_size);
        let fast = FastEncoder::new(&tokenizer);
        let mut inner = Inner { tokenizer, fast, spelling, special, bytes, vocab_size, bos: None };
        inner.bos = added_beginning(&inner)?;
        Ok(Self(Arc::new(inner)))
    }

    /// The content of a `tokenizer.json` that [`Tokenizer::from_json`] reads back.
    pub fn to_json(&self) -> Result<String, ModelError> {
        self.0.tokenizer.to_string(false).map_err(|error| invalid(&error.to_string()))
    }

    /// Token ids of a text; special tokens written in it are recognised either way.
    pub fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, ModelError> {
        self.0.encode(text, specials)
    }

    /// Token ids of a text, as [`Tokenizer::encode`] with [`Specials::Omit`], each with the bytes of the text that it stands for. The
    /// parts of a character that takes several tokens may each have the whole character.
    pub fn encode_with_offsets(&self, text: &str) -> Result<Vec<(u32, Range<usize>)>, ModelError> {
        let ids = self.0.encode(text, Specials::Omit)?;
        if let Some(spelled) = self.spelled(&ids, text) {
            return Ok(spelled);
        }
        let encoding = self.0.tokenizer.encode(text, false);
        let encoding = encoding.map_err(|error| ModelError::Invalid(format!("the text cannot be tokenized: {error}")))?;
        let offsets = encoding.get_offsets().iter().map(|(start, end)| *start..*end);
        Ok(encoding.get_ids().iter().copied().zip(offsets).collect())
    }

    /// The tokens with their places, where their bytes one after another are the text: most vocabularies, most texts.
    fn spelled(&self, ids: &[u32], text: &str) -> Option<Vec<(u32, Range<usize>)>> {
        let mut rest = text.as_bytes();
        let mut spelled = Vec::with_capacity(ids.len());
        for &id in ids {
            let start = text.len() - rest.len();
            rest = rest.strip_prefix(self.token_bytes(id)?)?;
            spelled.push((id, start..text.len() - rest.len()));
        }
        rest.is_empty().then_some(spelled)
    }

    /// Text of token ids, from the beginning of a text.
    pub fn decode(&self, ids: &[u32], specials: Specials) -> Result<String, ModelError> {
        let decoded = self.0.tokenizer.decode(ids, specials == Specials::Omit);
        decoded.map_err(|error| ModelError::Invalid(format!("tokens cannot be decoded: {error}")))
    }

    /// Decodes token by token.
    pub fn stream(&self, specials: Specials, position: Position) -> TextStream {
        let drops_space = self.0.spelling == Spelling::SentencePiece { drops_first_space: true } && position == Position::Start;
        TextStream::new(self.clone(), specials, drops_space)
    }

    /// Bytes that a token stands for in the middle of a text; `None` outside the vocabulary. Not always whole characters.
    pub fn token_bytes(&self, id: u32) -> Option<&[u8]> {
        self.0.bytes.get(id)
    }

    /// The token as text, incomplete characters replaced; `None` outside the vocabulary.
    pub fn token_text(&self, id: u32) -> Option<String> {
        self.token_bytes(id).map(|bytes| String::from_utf8_lossy(bytes).into_owned())
    }

    /// The token as the vocabulary spells it (`Ġthe`, `▁the`).
    pub fn token(&self, id: u32) -> Option<String> {
        self.0.tokenizer.id_to_token(id)
    }

    /// Id of a token by its spelling in the vocabulary (`<|im_end|>`).
    pub fn token_id(&self, token: &str) -> Option<u32> {
        self.0.tokenizer.token_to_id(token)
    }

    /// Highest id and one; the model's vocabulary may have more rows.
    pub fn vocab_size(&self) -> usize {
        self.0.vocab_size
    }

    /// Whether a token is special: structure, not text.
    pub fn is_special(&self, id: u32) -> bool {
        self.0.special.contains(&id)
    }

    /// Special tokens, in order of their ids.
    pub fn special_ids(&self) -> Vec<u32> {
        let mut ids: Vec<u32> = self.0.special.iter().copied().collect();
        ids.sort_unstable();
        ids
    }

    /// The token that encoding with [`Specials::Keep`] puts first, where it does.
    pub fn bos(&self) -> Option<u32> {
        self.0.bos
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.0.vocab_size).finish_non_exhaustive()
    }
}

impl Inner {
    fn encode(&self, text: &str, specials: Specials) -> Result<Vec<u32>, ModelError> {
        let around = specials == Specials::Keep;
        if let Some(ids) = self.fast.as_ref().and_then(|fast| fast.encode(&self.tokenizer, text, around)) {
            return ids;
        }
        let encoding = self.tokenizer.encode_fast(text, around);
        let encoding = encoding.map_err(|error| ModelError::Invalid(format!("the text cannot be tokenized: {error}")))?;
        Ok(encoding.get_ids().to_vec())
    }
}

/// The bytes of every token, one after another: they are asked for with every token that is generated.
struct TokenBytes {
    bytes: Vec<u8>,
    /// Where each token's bytes begin, and how many there are; ids without a token have [`NO_TOKEN`].
    places: Vec<(u32, u32)>,
}

const NO_TOKEN: u32 = u32::MAX;

impl TokenBytes {
    fn new(tokenizer: &tokenizers::Tokenizer, spelling: Spelling, vocab_size: usize) -> Self {
        let mut table = Self { bytes: Vec::new(), places: Vec::with_capacity(vocab_size) };
        for id in 0..u32::try_from(vocab_size).unwrap_or(u32::MAX) {
            let start = u32::try_from(table.bytes.len()).unwrap_or(NO_TOKEN);
            table.places.push(match tokenizer.id_to_token(id) {
                Some(token) => {
                    let bytes = spelling.bytes(&token);
                    table.bytes.extend_from_slice(&bytes);
                    (start, u32::try_from(bytes.len()).unwrap_or(NO_TOKEN))
                }
                None => (start, NO_TOKEN),
            });
        }
        table
    }

    fn get(&self, id: u32) -> Option<&[u8]> {
        let (start, length) = *self.places.get(id as usize)?;
        self.bytes.get(start as usize..(start as usize).checked_add(length as usize)?)
    }
}

impl Spelling {
    /// Bytes that a token's spelling stands for; the same rule as the tokenizer's own decoder.
    fn bytes(self, token: &str) -> Vec<u8> {
        match self {
            // A token with a character outside the alphabet is text as it is (an added token).
            Self::ByteLevel => token.chars().map(byte_of).collect::<Option<Vec<u8>>>().unwrap_or_else(|| token.into()),
            Self::SentencePiece { .. } => match fallback_byte(token) {
                Some(byte) => vec![byte],
                None => token.replace('▁', " ").into_bytes(),
            },
        }
    }
}

/// The byte of a token such as `<0x0A>`.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// What the decoder says of how tokens spell bytes; only the two ways of the supported architectures' tokenizers.
fn spelling(decoder: &Value) -> Result<Spelling, ModelError> {
    let parts = match decoder.get("decoders").and_then(Value::as_array) {
        Some(parts) => parts.iter().collect(),
        None => vec![decoder],
    };
    let kind = |part: &Value| part.get("type").and_then(Value::as_str).unwrap_or("null").to_owned();
    let has = |name: &str| parts.iter().find(|part| kind(part) == name);
    if has("ByteLevel").is_some() {
        return Ok(Spelling::ByteLevel);
    }
    if let Some(metaspace) = has("Metaspace") {
        let prepends = metaspace.get("prepend_scheme").and_then(Value::as_str) != Some("never");
        return Ok(Spelling::SentencePiece { drops_first_space: prepends });
    }
    if has("ByteFallback").is_some() {
        return Ok(Spelling::SentencePiece { drops_first_space: has("Strip").is_some() });
    }
    let kinds: Vec<String> = parts.iter().map(|part| kind(part)).collect();
    Err(invalid(&format!("its decoder is {}; ByteLevel, ByteFallback and Metaspace are supported", kinds.join(", "))))
}

/// The token that encoding adds in front of a text, found by encoding one.
fn added_beginning(inner: &Inner) -> Result<Option<u32>, ModelError> {
    let with = inner.encode("a", Specials::Keep)?;
    let without = inner.encode("a", Specials::Omit)?;
    Ok(with.first().filter(|first| without.first() != Some(first)).copied())
}

fn invalid(problem: &str) -> ModelError {
    ModelError::Invalid(format!("the tokenizer cannot be used: {problem}"))
}
