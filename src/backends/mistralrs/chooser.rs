//! Chooses the tokens of one answer where mistralrs asks what it is to make of their logits. Rows leave as plain numbers; what goes back
//! is a row in which the chosen token is the best.

use std::sync::{Mutex, MutexGuard, PoisonError};

use mistralrs::{CustomLogitsProcessor, Response, Result, Tensor};
use tokio::sync::mpsc::Receiver;

use super::lane::Turn;
use crate::engine::outside::{Writer, Written};

/// The choices of one answer. It lives as long as mistralrs has the sequence.
pub(super) struct Chooser {
    writer: Writer,
    /// What mistralrs sends. Closing it is how a sequence is ended; a stream learns of that at its next token.
    arriving: Mutex<Option<Receiver<Response>>>,
    /// While it runs.
    turn: Mutex<Option<Turn>>,
}

impl Chooser {
    pub(super) const fn new(writer: Writer, arriving: Receiver<Response>) -> Self {
        Self { writer, arriving: Mutex::new(Some(arriving)), turn: Mutex::new(None) }
    }

    /// Whether nobody waits for it any more.
    pub(super) fn is_over(&self) -> bool {
        self.writer.is_over()
    }

    /// It is given to mistralrs.
    pub(super) fn begin(&self, turn: Turn) {
        *self.turn() = Some(turn);
    }

    /// mistralrs did not take it.
    pub(super) fn never_ran(&self, reason: String) {
        if let Some(turn) = self.turn().take() {
            turn.forget();
        }
        self.writer.fail(reason);
    }

    fn turn(&self) -> MutexGuard<'_, Option<Turn>> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn arriving(&self) -> MutexGuard<'_, Option<Receiver<Response>>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads what has arrived: pieces of text, which nobody needs, or why it cannot go on.
    fn complaint(&self) -> Option<String> {
        let mut held = self.arriving();
        let arriving = held.as_mut()?;
        let mut complaint = None;
        while let Ok(response) = arriving.try_recv() {
            complaint = reason(&response).or(complaint);
        }
        complaint
    }
}

impl CustomLogitsProcessor for Chooser {
    fn apply(&self, logits: &Tensor, _context: &[u32]) -> Result<Tensor> {
        // An error here would take a token from every sequence of the step.
        if let Some(complaint) = self.complaint() {
            self.writer.fail(complaint);
        }
        let row: Vec<f32> = logits.to_vec1()?;
        let id = match self.writer.write(&row) {
            Written::Token(id) => id,
            Written::Last(id) => {
                *self.arriving() = None;
                id
            }
            Written::Over => {
                *self.arriving() = None;
                0
            }
        };
        let mut only = vec![0.0f32; row.len()];
        if let Some(chosen) = only.get_mut(id as usize) {
            *chosen = 1.0;
        }
        Tensor::from_vec(only, row.len(), logits.device())
    }
}

impl Drop for Chooser {
    fn drop(&mut self) {
        if let Some(complaint) = self.complaint() {
            self.writer.fail(complaint);
        }
    }
}

fn reason(response: &Response) -> Option<String> {
    match response {
        Response::InternalError(error) | Response::ValidationError(error) => Some(format!("mistralrs: {error}")),
        Response::ModelError(error, _) | Response::CompletionModelError(error, _) => Some(format!("mistralrs: {error}")),
        _ => None,
    }
}
