//! Lines of a file, one at a time, each within a limit. Knows nothing of what is in them.

use std::io::{self, BufRead};

/// The longest row that is read, bytes.
pub(super) const MAX_ROW: usize = 16 << 20;

/// A line without its end.
pub(super) enum Line {
    /// Its bytes.
    Whole(Vec<u8>),
    /// It is longer than [`MAX_ROW`]; what it holds was passed over. Its length in bytes.
    TooLong(u64),
}

/// Reads lines and counts them.
pub(super) struct Lines<R> {
    inner: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    pub(super) const fn new(inner: R) -> Self {
        Self { inner, number: 0 }
    }

    /// The next line and its number, from 1.
    pub(super) fn next_line(&mut self) -> io::Result<Option<(u64, Line)>> {
        let mut bytes = Vec::new();
        let mut length: u64 = 0;
        let mut any = false;
        loop {
            let available = match self.inner.fill_buf() {
                Ok(available) => available,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if available.is_empty() {
                break;
            }
            any = true;
            let end = available.iter().position(|byte| *byte == b'\n');
            let piece = &available[..end.unwrap_or(available.len())];
            length += piece.len() as u64;
            if length <= MAX_ROW as u64 {
                bytes.extend_from_slice(piece);
            } else {
                bytes = Vec::new();
            }
            let used = piece.len() + usize::from(end.is_some());
            self.inner.consume(used);
            if end.is_some() {
                break;
            }
        }
        if !any {
            return Ok(None);
        }
        self.number += 1;
        if length > MAX_ROW as u64 {
            return Ok(Some((self.number, Line::TooLong(length))));
        }
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
        Ok(Some((self.number, Line::Whole(bytes))))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    fn all(text: &[u8], buffer: usize) -> Vec<(u64, String)> {
        let mut lines = Lines::new(io::BufReader::with_capacity(buffer, text));
        let mut found = Vec::new();
        while let Some((number, line)) = lines.next_line().unwrap() {
            found.push((
                number,
                match line {
                    Line::Whole(bytes) => String::from_utf8(bytes).unwrap(),
                    Line::TooLong(length) => format!("too long: {length}"),
                },
            ));
        }
        found
    }

    #[test]
    fn lines_are_the_same_whatever_the_buffer() {
        for buffer in [1, 2, 7, 100] {
            let expected = [(1, "a"), (2, ""), (3, "bcd"), (4, "e")].map(|(number, text)| (number, text.to_owned()));
            assert_eq!(all(b"a\n\nbcd\r\ne", buffer), expected);
            assert_eq!(all(b"a\n", buffer), [(1, "a".to_owned())]);
            assert_eq!(all(b"", buffer), []);
        }
    }

    #[test]
    fn a_line_over_the_limit_is_passed_over_and_the_next_is_read() {
        let mut text = vec![b'x'; MAX_ROW + 1];
        text.extend_from_slice(b"\nnext\n");
        assert_eq!(all(&text, 1 << 16), [(1, format!("too long: {}", MAX_ROW + 1)), (2, "next".to_owned())]);
    }
}
