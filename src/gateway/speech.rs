//! One answer's tokens on their way to its pieces: text, cut at stop strings, and the calls of functions that are read from it. What
//! clients, experiments and shadow traffic read of an answer all comes from here. Knows no channels, and nothing of who pays.

use std::sync::Arc;

use rand::Rng;
use rand::distr::Alphanumeric;

use super::StopText;
use super::assemble::{Assembler, Delta, ReportedToken};
use super::structure::{Part, Reader, Syntax};
use super::types::{CallPiece, FinishReason, Piece, Stops};
use crate::model::tokenizer::{Position, Specials, TextStream, Tokenizer};

/// How the answers to a request are read.
#[derive(Clone)]
pub(super) struct Manner {
    /// Where answers stand in their text.
    pub position: Position,
    /// Tokens that end an answer.
    pub end_tokens: Arc<[u32]>,
    pub stops: Stops,
    /// How calls of functions are read, where there are any.
    pub reads: Option<Arc<Syntax>>,
}

impl Manner {
    /// Whether a token belongs to the answer's text.
    pub(super) fn shows(&self, id: u32) -> bool {
        !self.end_tokens.contains(&id) || (self.stops.text == StopText::Included && self.stops.tokens.contains(&id))
    }
}

/// One answer so far.
pub(super) struct Speech {
    decoder: TextStream,
    text: Assembler,
    reader: Option<Reader>,
    /// Calls that began.
    calls: usize,
}

impl Speech {
    /// An answer whose text begins after `offset` characters (an echoed prompt).
    pub(super) fn new(tokenizer: &Tokenizer, manner: &Manner, offset: usize) -> Self {
        // Calls may begin with a special token.
        let specials = if manner.reads.is_some() { Specials::Keep } else { Specials::Omit };
        Self {
            decoder: tokenizer.stream(specials, manner.position),
            text: Assembler::new(manner.stops.strings.clone(), manner.stops.text, offset),
            reader: manner.reads.clone().map(Reader::new),
            calls: 0,
        }
    }

    /// Takes a token, if it is shown, and its report. What is new; it has a `finish` where a stop string is complete.
    pub(super) fn token(&mut self, shown: Option<u32>, report: Option<ReportedToken>) -> Piece {
        let text = shown.map(|id| self.decoder.push(id)).unwrap_or_default();
        let delta = self.text.push(&text, report);
        let finish = delta.stopped.then_some(FinishReason::Stop);
        self.piece(delta, finish)
    }

    /// The rest, where the answer ends otherwise than by a stop string.
    pub(super) fn end(&mut self, reason: FinishReason) -> Piece {
        let delta = self.text.finish(&self.decoder.finish());
        let reason = if delta.stopped { FinishReason::Stop } else { reason };
        self.piece(delta, Some(reason))
    }

    fn piece(&mut self, delta: Delta, finish: Option<FinishReason>) -> Piece {
        let mut piece = Piece { tokens: delta.tokens, finish, ..Piece::default() };
        let Some(reader) = &mut self.reader else {
            piece.text = delta.text;
            return piece;
        };
        let mut parts = reader.push(&delta.text);
        if finish.is_some() {
            parts.extend(reader.finish());
        }
        if finish == Some(FinishReason::Stop) && reader.has_called() {
            piece.finish = Some(FinishReason::ToolCalls);
        }
        parts.into_iter().for_each(|part| self.add(&mut piece, part));
        piece
    }

    fn add(&mut self, piece: &mut Piece, part: Part) {
        match part {
            Part::Text(text) => piece.text.push_str(&text),
            Part::Call(name) => {
                // Nine letters and digits: what Mistral's templates take; others take anything.
                let id = rand::rng().sample_iter(Alphanumeric).take(9).map(char::from).collect();
                piece.calls.push(CallPiece { index: self.calls, begins: Some((id, name)), arguments: String::new() });
                self.calls += 1;
            }
            Part::Arguments(arguments) => match piece.calls.last_mut() {
                Some(call) => call.arguments.push_str(&arguments),
                None => piece.calls.push(CallPiece { index: self.calls.saturating_sub(1), begins: None, arguments }),
            },
        }
    }
}
