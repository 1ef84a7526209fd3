//! Finds stop strings in text that arrives in pieces. Pure; knows neither tokens nor models.

/// What one piece of text brought.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scanned {
    /// Text that can be sent now: nothing in it can be part of a stop string any more.
    pub text: String,
    /// A stop string is complete; nothing after it is ever sent.
    pub stopped: bool,
}

/// Whether the stop string itself belongs to the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StopText {
    /// The answer ends before it (OpenAI).
    #[default]
    Excluded,
    /// The answer ends with it (`include_stop_str_in_output`).
    Included,
}

/// Looks for the stop string that ends first (of two that end together, the longer one), so the result does not depend
/// on how the text is cut into pieces. Holds back only what may still become a stop string. Each byte of text is looked at once
/// per stop string, whatever the strings are.
#[derive(Debug, Clone)]
pub struct StopScanner {
    matchers: Vec<Matcher>,
    text: StopText,
    held: String,
}

impl StopScanner {
    /// A scanner for these strings; empty ones are never found.
    pub fn new(stops: Vec<String>, text: StopText) -> Self {
        let matchers = stops.into_iter().filter(|stop| !stop.is_empty()).map(Matcher::new).collect();
        Self { matchers, text, held: String::new() }
    }

    /// Takes the next piece of text.
    pub fn push(&mut self, piece: &str) -> Scanned {
        if self.matchers.is_empty() {
            return Scanned { text: piece.to_owned(), stopped: false };
        }
        let before = self.held.len();
        self.held.push_str(piece);
        for (index, byte) in piece.bytes().enumerate() {
            let found = self.matchers.iter_mut().filter_map(|matcher| matcher.advance(byte)).max();
            if let Some(length) = found {
                // Stop strings are whole characters, so both ends lie between characters.
                let end = before + index + 1;
                self.held.truncate(match self.text {
                    StopText::Excluded => end - length,
                    StopText::Included => end,
                });
                return Scanned { text: std::mem::take(&mut self.held), stopped: true };
            }
        }
        let keep = self.matchers.iter().map(|matcher| matcher.matched).max().unwrap_or(0);
        let tail = self.held.split_off(self.held.len() - keep);
        Scanned { text: std::mem::replace(&mut self.held, tail), stopped: false }
    }

    /// What was held back, when the text ends without a stop string.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Knuth, Morris, Pratt 1977, "Fast pattern matching in strings".
#[derive(Debug, Clone)]
struct Matcher {
    stop: Vec<u8>,
    /// For every prefix of the stop string, the length of its longest proper prefix that is also its suffix.
    failure: Vec<usize>,
    /// Bytes of the stop string that the text ends with.
    matched: usize,
}

impl Matcher {
    fn new(stop: String) -> Self {
        let stop = stop.into_bytes();
        let mut failure = vec![0; stop.len()];
        let mut matched = 0;
        for index in 1..stop.len() {
            while matched > 0 && stop[index] != stop[matched] {
                matched = failure[matched - 1];
            }
            matched += usize::from(stop[index] == stop[matched]);
            failure[index] = matched;
        }
        Self { stop, failure, matched: 0 }
    }

    /// The stop string's length, when this byte completes it.
    fn advance(&mut self, byte: u8) -> Option<usize> {
        while self.matched > 0 && byte != self.stop[self.matched] {
            self.matched = self.failure[self.matched - 1];
        }
        self.matched += usize::from(byte == self.stop[self.matched]);
        (self.matched == self.stop.len()).then_some(self.matched)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[&str], pieces: &[&str], text: StopText) -> (String, bool) {
        let mut scanner = StopScanner::new(stops.iter().map(|&s| s.to_owned()).collect(), text);
        let mut out = String::new();
        for piece in pieces {
            let scanned = scanner.push(piece);
            out.push_str(&scanned.text);
            if scanned.stopped {
                return (out, true);
            }
        }
        out.push_str(&scanner.finish());
        (out, false)
    }

    #[test]
    fn finds_a_stop_across_pieces_and_holds_back_only_what_may_match() {
        let mut scanner = StopScanner::new(vec!["END".to_owned()], StopText::Excluded);
        assert_eq!(scanner.push("go E"), Scanned { text: "go ".to_owned(), stopped: false });
        assert_eq!(scanner.push("N"), Scanned { text: String::new(), stopped: false });
        assert_eq!(scanner.push("ough EN"), Scanned { text: "ENough ".to_owned(), stopped: false });
        assert_eq!(scanner.push("D tail"), Scanned { text: String::new(), stopped: true });
    }

    #[test]
    fn the_stop_string_is_kept_only_when_asked() {
        assert_eq!(run(&["\n\n"], &["a\n", "\nb"], StopText::Excluded), ("a".to_owned(), true));
        assert_eq!(run(&["\n\n"], &["a\n", "\nb"], StopText::Included), ("a\n\n".to_owned(), true));
    }

    #[test]
    fn a_partial_match_at_the_end_is_sent() {
        assert_eq!(run(&["END"], &["the EN"], StopText::Excluded), ("the EN".to_owned(), false));
    }

    proptest! {
        #[test]
        fn cutting_the_text_differently_changes_nothing(
            text in "[abéê]{0,24}",
            stops in prop::collection::vec("[abéê]{1,4}", 0..4),
            cuts in prop::collection::vec(0usize..6, 0..12),
        ) {
            let chars: Vec<char> = text.chars().collect();
            let mut pieces = Vec::new();
            let mut rest = &chars[..];
            for cut in cuts {
                let (piece, tail) = rest.split_at(cut.min(rest.len()));
                pieces.push(piece.iter().collect::<String>());
                rest = tail;
            }
            pieces.push(rest.iter().collect::<String>());
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let cut: Vec<&str> = pieces.iter().map(String::as_str).collect();
            for mode in [StopText::Excluded, StopText::Included] {
                let whole = run(&stops, &[&text], mode);
                prop_assert_eq!(&run(&stops, &cut, mode), &whole);
                prop_assert!(text.starts_with(&whole.0));
                let first = stops.iter().filter_map(|stop| text.find(stop).map(|at| (at + stop.len(), at))).min();
                prop_assert_eq!(whole.1, first.is_some());
                if let Some((end, start)) = first {
                    prop_assert_eq!(&whole.0, &text[..if mode == StopText::Included { end } else { start }]);
                }
                if mode == StopText::Excluded {
                    prop_assert!(stops.iter().all(|stop| !whole.0.contains(stop)));
                }
            }
        }
    }
}
