//! One sequence's text on its way out: joins decoded text with the tokens that made it, cuts at stop strings, keeps
//! reports of tokens aligned with the text that is sent. Pure; knows neither tokenizers nor channels.

use std::collections::VecDeque;

use super::stop::{StopScanner, StopText};

/// A token with its log-probability, ready to be shown.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReportedToken {
    /// The token's bytes; a token may hold part of a character.
    pub bytes: Vec<u8>,
    /// Natural logarithm of its probability; the first prompt token has none.
    pub logprob: Option<f32>,
    /// The most likely tokens in its place, best first: bytes and log-probability.
    pub top: Vec<(Vec<u8>, f32)>,
    /// Characters of the choice's text before it.
    pub offset: usize,
}

/// What can be sent after one token.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Delta {
    /// New text.
    pub text: String,
    /// Tokens that the text came from (when reports are asked).
    pub tokens: Vec<ReportedToken>,
    /// A stop string is complete; the sequence ends here.
    pub stopped: bool,
}

/// Joins text and tokens of one sequence.
#[derive(Debug)]
pub struct Assembler {
    scanner: StopScanner,
    /// Characters received and sent, echoed prompt included.
    received: usize,
    sent: usize,
    waiting: VecDeque<Waiting>,
}

#[derive(Debug)]
struct Waiting {
    /// Characters of text up to and including this token's.
    end: usize,
    report: ReportedToken,
}

impl Assembler {
    /// For a sequence whose text begins after `offset` characters (an echoed prompt).
    pub fn new(stops: Vec<String>, text: StopText, offset: usize) -> Self {
        Self { scanner: StopScanner::new(stops, text), received: offset, sent: offset, waiting: VecDeque::new() }
    }

    /// Takes the text that a token completed (often none: part of a character) and its report.
    pub fn push(&mut self, text: &str, report: Option<ReportedToken>) -> Delta {
        let start = self.received;
        self.received += text.chars().count();
        if let Some(report) = report {
            self.waiting.push_back(Waiting { end: self.received, report: ReportedToken { offset: start, ..report } });
        }
        let scanned = self.scanner.push(text);
        self.send(scanned.text, scanned.stopped)
    }

    /// The rest, when the sequence ends without a stop string; `text` is what the decoder still held.
    pub fn finish(&mut self, text: &str) -> Delta {
        self.received += text.chars().count();
        let scanned = self.scanner.push(text);
        if scanned.stopped {
            return self.send(scanned.text, true);
        }
        let rest = scanned.text + &self.scanner.finish();
        let mut delta = self.send(rest, false);
        delta.tokens.extend(self.waiting.drain(..).map(|waiting| waiting.report));
        delta
    }

    fn send(&mut self, text: String, stopped: bool) -> Delta {
        self.sent += text.chars().count();
        let mut tokens = Vec::new();
        while let Some(first) = self.waiting.front() {
            // At a stop, tokens that begin inside the answer belong to it even if the cut goes through them.
            let ready = first.end <= self.sent || (stopped && first.report.offset < self.sent);
            if !ready {
                break;
            }
            tokens.extend(self.waiting.pop_front().map(|waiting| waiting.report));
        }
        if stopped {
            self.waiting.clear();
        }
        Delta { text, tokens, stopped }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    fn token(name: &str) -> Option<ReportedToken> {
        Some(ReportedToken { bytes: name.as_bytes().to_vec(), logprob: Some(-1.0), ..ReportedToken::default() })
    }

    fn names(delta: &Delta) -> Vec<(String, usize)> {
        delta.tokens.iter().map(|token| (String::from_utf8_lossy(&token.bytes).into_owned(), token.offset)).collect()
    }

    #[test]
    fn a_token_is_reported_with_the_text_that_it_ends() {
        let mut sequence = Assembler::new(vec!["stop".to_owned()], StopText::Excluded, 10);
        let first = sequence.push("is", token("is"));
        assert_eq!((first.text.as_str(), names(&first)), ("i", vec![]), "the s may begin a stop string");
        let second = sequence.push(" é", token(" é"));
        assert_eq!(second.text, "s é");
        assert_eq!(names(&second), vec![("is".to_owned(), 10), (" é".to_owned(), 12)]);
        let third = sequence.push("st", token("st"));
        assert_eq!(third, Delta::default());
        let last = sequence.push("op!", token("op!"));
        assert!(last.stopped && last.text.is_empty() && last.tokens.is_empty(), "{last:?}");
    }

    #[test]
    fn a_token_that_a_stop_cuts_is_still_reported() {
        let mut sequence = Assembler::new(vec!["B".to_owned()], StopText::Excluded, 0);
        let delta = sequence.push("aBc", token("aBc"));
        assert_eq!((delta.text.as_str(), names(&delta), delta.stopped), ("a", vec![("aBc".to_owned(), 0)], true));
    }

    #[test]
    fn the_end_sends_everything_that_was_held() {
        let mut sequence = Assembler::new(vec!["xyz".to_owned()], StopText::Excluded, 0);
        assert_eq!(sequence.push("xy", token("xy")), Delta::default());
        assert_eq!(sequence.push("", token("half")), Delta::default());
        let delta = sequence.finish("\u{fffd}");
        assert_eq!(delta.text, "xy\u{fffd}");
        assert_eq!(names(&delta), vec![("xy".to_owned(), 0), ("half".to_owned(), 2)]);
    }
}
