//! The elements of one JSON array in a file, one at a time: the array that the file is, or one under a key of the object that it is.
//! Finds where elements begin and end; whether they are sound JSON is for others.

use std::io::{self, BufRead};

use super::lines::MAX_ROW;

/// Where the array is.
pub(super) struct Elements<R> {
    inner: R,
    line: u64,
    /// Key that the array was under.
    key: Option<String>,
    place: Place,
}

#[derive(PartialEq, Eq)]
enum Place {
    First,
    Later,
    Over,
}

/// An element, or what is wrong from here on.
pub(super) enum Element {
    /// The line that it begins on, and its bytes.
    Whole(u64, Vec<u8>),
    /// It has more than [`MAX_ROW`] bytes.
    TooLong(u64),
    /// The array is broken; nothing after this can be told apart.
    Broken(u64, &'static str),
}

/// Why a value could not be passed over.
enum Stop {
    Io(io::Error),
    /// The file ends within it.
    End,
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl<R: BufRead> Elements<R> {
    /// Goes to the array; `None` where there is none. `line` is the number of the first line.
    pub(super) fn open(inner: R, keys: &[&str], line: u64) -> io::Result<Option<Self>> {
        let mut elements = Self { inner, line, key: None, place: Place::First };
        match elements.go_to_array(keys) {
            Ok(true) => Ok(Some(elements)),
            Ok(false) | Err(Stop::End) => Ok(None),
            Err(Stop::Io(error)) => Err(error),
        }
    }

    /// The next element.
    pub(super) fn next_element(&mut self) -> io::Result<Option<Element>> {
        if self.place == Place::Over {
            return Ok(None);
        }
        match self.element() {
            Ok(element) => {
                if !matches!(element, Some(Element::Whole(..) | Element::TooLong(_))) {
                    self.place = Place::Over;
                }
                Ok(element)
            }
            Err(Stop::Io(error)) => Err(error),
            Err(Stop::End) => {
                self.place = Place::Over;
                Ok(Some(Element::Broken(self.line, "the file ends within a JSON array")))
            }
        }
    }

    fn element(&mut self) -> Result<Option<Element>, Stop> {
        let mut next = self.solid()?;
        if next == b']' {
            self.bump()?;
            return self.after_the_end();
        }
        if self.place == Place::Later {
            if next != b',' {
                return Ok(Some(Element::Broken(self.line, "a comma or the end of the array is missing")));
            }
            self.bump()?;
            next = self.solid()?;
        }
        self.place = Place::Later;
        if matches!(next, b',' | b']' | b'}' | b':') {
            return Ok(Some(Element::Broken(self.line, "an element of the array is missing")));
        }
        let line = self.line;
        let mut bytes = Vec::new();
        let length = self.value(Some(&mut bytes))?;
        Ok(Some(if length > MAX_ROW { Element::TooLong(line) } else { Element::Whole(line, bytes) }))
    }

    /// Behind an array that is the whole file there is nothing; behind one under a key the rest does not matter.
    fn after_the_end(&mut self) -> Result<Option<Element>, Stop> {
        if self.key.is_none() {
            match self.solid() {
                Ok(_) => return Ok(Some(Element::Broken(self.line, "something follows the end of the array"))),
                Err(Stop::End) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn go_to_array(&mut self, keys: &[&str]) -> Result<bool, Stop> {
        if self.inner.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
            self.inner.consume(3);
        }
        match self.solid()? {
            b'[' => {
                self.bump()?;
                return Ok(true);
            }
            b'{' => self.bump()?,
            _ => return Ok(false),
        }
        loop {
            if self.solid()? == b',' {
                self.bump()?;
            }
            if self.solid()? != b'"' {
                return Ok(false);
            }
            let mut key = Vec::new();
            self.value(Some(&mut key))?;
            if self.solid()? != b':' {
                return Ok(false);
            }
            self.bump()?;
            let key: String = serde_json::from_slice(&key).unwrap_or_default();
            if self.solid()? == b'[' && keys.contains(&key.as_str()) {
                self.bump()?;
                self.key = Some(key);
                return Ok(true);
            }
            self.value(None)?;
        }
    }

    /// Passes one value over and keeps its bytes, as long as they are within the limit. Its length.
    fn value(&mut self, mut keep: Option<&mut Vec<u8>>) -> Result<usize, Stop> {
        let mut length = 0_usize;
        let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
        loop {
            let byte = match self.peek() {
                // A number at the very end of a file is over.
                Err(Stop::End) if depth == 0 && !in_text && length > 0 => return Ok(length),
                other => other?,
            };
            let ends_scalar = depth == 0 && !in_text && length > 0;
            if ends_scalar && (byte.is_ascii_whitespace() || matches!(byte, b',' | b']' | b'}' | b':')) {
                return Ok(length);
            }
            self.bump()?;
            length = length.saturating_add(1);
            if let Some(kept) = &mut keep {
                if length <= MAX_ROW {
                    kept.push(byte);
                } else if !kept.is_empty() {
                    **kept = Vec::new();
                }
            }
            if in_text {
                match byte {
                    _ if escaped => escaped = false,
                    b'\\' => escaped = true,
                    b'"' => {
                        in_text = false;
                        if depth == 0 {
                            return Ok(length);
                        }
                    }
                    _ => {}
                }
                continue;
            }
            match byte {
                b'"' => in_text = true,
                b'{' | b'[' => depth += 1,
                b'}' | b']' => {
                    depth = depth.saturating_sub(1);
                    if depth == 0 {
                        return Ok(length);
                    }
                }
                _ => {}
            }
        }
    }

    /// The next byte that is no white space, which stays.
    fn solid(&mut self) -> Result<u8, Stop> {
        loop {
            let byte = self.peek()?;
            if !byte.is_ascii_whitespace() {
                return Ok(byte);
            }
            self.bump()?;
        }
    }

    fn peek(&mut self) -> Result<u8, Stop> {
        loop {
            match self.inner.fill_buf() {
                Ok(available) => return available.first().copied().ok_or(Stop::End),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn bump(&mut self) -> Result<(), Stop> {
        if self.peek()? == b'\n' {
            self.line += 1;
        }
        self.inner.consume(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn all(text: &str, keys: &[&str]) -> Option<Vec<(u64, String)>> {
        let mut elements = Elements::open(io::BufReader::with_capacity(3, text.as_bytes()), keys, 1).unwrap()?;
        let mut found = Vec::new();
        while let Some(element) = elements.next_element().unwrap() {
            found.push(match element {
                Element::Whole(line, bytes) => (line, String::from_utf8(bytes).unwrap()),
                Element::TooLong(line) => (line, "too long".to_owned()),
                Element::Broken(line, problem) => (line, format!("! {problem}")),
            });
        }
        Some(found)
    }

    fn plain(found: &[(u64, String)]) -> Vec<(u64, &str)> {
        found.iter().map(|(line, text)| (*line, text.as_str())).collect()
    }

    #[test]
    fn elements_are_found_with_their_lines() {
        let text = "\n[\n {\"a\": \"]},\\\"\"},\n\n [1, [2]] , 3, \"x\"]\n";
        let found = all(text, &[]).unwrap();
        assert_eq!(plain(&found), [(3, "{\"a\": \"]},\\\"\"}"), (5, "[1, [2]]"), (5, "3"), (5, "\"x\"")]);
        let text = "{\"meta\": {\"data\": [1]}, \"n\": 5,\n\"data\": [{\"b\": 2},\n{}], \"rest\": 1}";
        assert_eq!(plain(&all(text, &["rows", "data"]).unwrap()), [(2, "{\"b\": 2}"), (3, "{}")]);
        assert_eq!(all("{\"a\": 1}", &["data"]), None);
        assert_eq!(all("[]", &[]).unwrap(), []);
    }

    #[test]
    fn what_is_broken_is_said_with_its_line() {
        let found = all("[{\"a\": 1},\n{\"a\": 2", &[]).unwrap();
        assert_eq!(plain(&found), [(1, "{\"a\": 1}"), (2, "! the file ends within a JSON array")]);
        assert_eq!(plain(&all("[1\n2]", &[]).unwrap())[1], (2, "! a comma or the end of the array is missing"));
        assert_eq!(plain(&all("[1,]", &[]).unwrap())[1], (1, "! an element of the array is missing"));
        assert_eq!(plain(&all("[1] x", &[]).unwrap())[1], (1, "! something follows the end of the array"));
    }

    proptest! {
        #[test]
        fn elements_are_those_of_the_parser(list in prop::collection::vec(any::<(String, f64, Option<bool>)>(), 0..6), lines: bool) {
            let values: Vec<Value> = list.iter().map(|row| serde_json::json!({"s": row.0, "n": [row.1], "b": row.2})).collect();
            let text = if lines { serde_json::to_string_pretty(&values) } else { serde_json::to_string(&values) }.unwrap();
            let found: Vec<Value> = all(&text, &[]).unwrap().iter().map(|(_, text)| serde_json::from_str(text).unwrap()).collect();
            prop_assert_eq!(found, values);
        }

        #[test]
        fn no_text_is_a_panic(text in "[\\[\\]{}\",:\\\\a1 \n]{0,40}") {
            all(&text, &["a", ""]);
        }
    }
}
