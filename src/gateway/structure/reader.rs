//! Calls in the text of an answer, while it comes: what is text, which functions are called, and their arguments piece by piece. Pure.

use std::sync::Arc;

use super::tools::Syntax;

/// What a piece of text was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// Text.
    Text(String),
    /// A call of this function begins.
    Call(String),
    /// More of the last call's arguments.
    Arguments(String),
}

/// Reads one answer.
#[derive(Debug)]
pub struct Reader {
    syntax: Arc<Syntax>,
    state: State,
    /// What was said and not yet understood.
    held: String,
    /// Calls that began, and those that are complete.
    begun: usize,
    complete: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// No cue so far.
    Before,
    /// After a cue, or after a call: a call is to begin.
    Head,
    /// Inside of arguments.
    Arguments(Json),
    /// No call can come any more.
    Text,
}

/// Where in a JSON object a text is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Json {
    depth: usize,
    quoted: bool,
    escaped: bool,
}

impl Json {
    /// Reads on; where the object ends, if it does.
    fn read(&mut self, text: &str) -> Option<usize> {
        for (index, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.quoted => self.escaped = true,
                b'"' => self.quoted = !self.quoted,
                _ if self.quoted => {}
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(index + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

impl Reader {
    /// For one answer.
    pub fn new(syntax: Arc<Syntax>) -> Self {
        Self { syntax, state: State::Before, held: String::new(), begun: 0, complete: 0 }
    }

    /// Whether the answer calls, and every call is complete.
    pub fn has_called(&self) -> bool {
        self.begun > 0 && self.begun == self.complete
    }

    /// Takes more text.
    pub fn push(&mut self, text: &str) -> Vec<Part> {
        self.held.push_str(text);
        let mut parts = Vec::new();
        while self.step(&mut parts) {}
        parts
    }

    /// The rest, at the answer's end.
    pub fn finish(&mut self) -> Vec<Part> {
        let rest = std::mem::take(&mut self.held);
        // Signs around calls belong to nobody.
        let is_text = !rest.is_empty() && self.begun == 0;
        if is_text { vec![Part::Text(rest)] } else { Vec::new() }
    }

    /// Understands some of what is held; whether there may be more to understand.
    fn step(&mut self, parts: &mut Vec<Part>) -> bool {
        match self.state {
            State::Text => {
                push_text(parts, std::mem::take(&mut self.held));
                false
            }
            State::Before => self.look_for_cue(parts),
            State::Head => self.head(parts),
            State::Arguments(mut json) => {
                let end = json.read(&self.held);
                let rest = self.held.split_off(end.unwrap_or(self.held.len()));
                let said = std::mem::replace(&mut self.held, rest);
                if !said.is_empty() {
                    parts.push(Part::Arguments(said));
                }
                self.state = if end.is_some() { State::Head } else { State::Arguments(json) };
                self.complete += usize::from(end.is_some());
                end.is_some() && !self.held.is_empty()
            }
        }
    }

    fn look_for_cue(&mut self, parts: &mut Vec<Part>) -> bool {
        let cue = &self.syntax.family.cue;
        if self.syntax.only_at_start() {
            let said = self.held.trim_start();
            if said.starts_with(cue.as_str()) {
                self.state = State::Head;
                return true;
            }
            if cue.starts_with(said) {
                return false;
            }
            self.state = State::Text;
            return true;
        }
        if let Some(start) = self.held.find(cue.as_str()) {
            let rest = self.held.split_off(start);
            push_text(parts, std::mem::replace(&mut self.held, rest));
            self.state = State::Head;
            return true;
        }
        let keep = (1..cue.len()).rev().find(|length| self.held.ends_with(&cue[..*length])).unwrap_or(0);
        let tail = self.held.split_off(self.held.len() - keep);
        push_text(parts, std::mem::replace(&mut self.held, tail));
        false
    }

    /// `cue first call[0] NAME call[1]`, or after a call `call[2] between call[0] NAME call[1]`.
    fn head(&mut self, parts: &mut Vec<Part>) -> bool {
        let family = &self.syntax.family;
        let [before, middle, after] = &family.call;
        let opening = if self.begun == 0 {
            format!("{}{}{before}", family.cue, family.first)
        } else {
            format!("{after}{}{before}", family.between.as_deref().unwrap_or_default())
        };
        let said = if self.begun == 0 && self.syntax.only_at_start() { self.held.trim_start() } else { &self.held };
        if let Some(rest) = said.strip_prefix(opening.as_str()) {
            let Some((name, arguments)) = rest.split_once(middle.as_str()) else { return false };
            let (name, arguments) = (name.to_owned(), arguments.to_owned());
            parts.push(Part::Call(name));
            self.held = arguments;
            self.begun += 1;
            self.state = State::Arguments(Json::default());
            return true;
        }
        if opening.starts_with(said) || self.begun > 0 {
            // More has to come, or the answer is at its end.
            return false;
        }
        // It only looked like a call.
        if self.syntax.only_at_start() {
            self.state = State::Text;
            return true;
        }
        let rest = self.held.split_off(family.cue.len());
        push_text(parts, std::mem::replace(&mut self.held, rest));
        self.state = State::Before;
        true
    }
}

fn push_text(parts: &mut Vec<Part>, text: String) {
    if text.is_empty() {
        return;
    }
    if let Some(Part::Text(last)) = parts.last_mut() {
        last.push_str(&text);
    } else {
        parts.push(Part::Text(text));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;
    use crate::gateway::structure::ToolFamily;

    /// Text, and calls with their arguments.
    fn read(family: &str, pieces: &[&str]) -> (String, Vec<(String, String)>, bool) {
        let syntax = Syntax::of("", &ToolFamily::Named(family.to_owned())).unwrap();
        let mut reader = Reader::new(Arc::new(syntax));
        let mut parts: Vec<Part> = pieces.iter().flat_map(|piece| reader.push(piece)).collect();
        parts.extend(reader.finish());
        let (mut text, mut calls) = (String::new(), Vec::<(String, String)>::new());
        for part in parts {
            match part {
                Part::Text(more) => text.push_str(&more),
                Part::Call(name) => calls.push((name, String::new())),
                Part::Arguments(more) => calls.last_mut().unwrap().1.push_str(&more),
            }
        }
        (text, calls, reader.has_called())
    }

    #[test]
    fn calls_are_read_however_the_text_is_cut() {
        let a = r#"{"s": "}\"{[", "n": [1, {}]}"#;
        let cases = [
            (
                "hermes",
                format!(
                    "Well.\n<tool_call>\n{{\"name\": \"f\", \"arguments\": {a}}}\n</tool_call>\n<tool_call>\n{{\"name\": \"g\", \"arguments\": {{}}}}\n</tool_call>"
                ),
                "Well.\n",
                2,
            ),
            (
                "mistral",
                format!("[TOOL_CALLS][{{\"name\": \"f\", \"arguments\": {a}}}, {{\"name\": \"g\", \"arguments\": {{}}}}]"),
                "",
                2,
            ),
            ("llama3", format!(" {{\"name\": \"f\", \"parameters\": {a}}}"), "", 1),
        ];
        for (family, said, text, calls) in cases {
            let mut expected = vec![("f".to_owned(), a.to_owned()), ("g".to_owned(), "{}".to_owned())];
            expected.truncate(calls);
            let letters: Vec<String> = said.chars().map(String::from).collect();
            let letters: Vec<&str> = letters.iter().map(String::as_str).collect();
            for pieces in [vec![said.as_str()], letters] {
                assert_eq!(read(family, &pieces), (text.to_owned(), expected.clone(), true), "{family}");
            }
        }
    }

    #[test]
    fn what_only_looks_like_a_call_is_text() {
        for (family, said) in [
            ("hermes", "a <tool_cal"),
            ("hermes", "a <tool_call> b <tool_"),
            ("llama3", "{\"name"),
            ("llama3", "{\"name\":1}"),
            ("llama3", "Say {\"name\": \"f\", \"parameters\": {}}"),
        ] {
            assert_eq!(read(family, &[said]), (said.to_owned(), vec![], false));
        }
    }

    #[test]
    fn a_call_that_is_cut_is_no_whole_call() {
        let (text, calls, called) = read("hermes", &["<tool_call>\n{\"name\": \"f\", \"arguments\": {\"a\": \"b"]);
        assert_eq!((text.as_str(), called), ("", false));
        assert_eq!(calls, [("f".to_owned(), "{\"a\": \"b".to_owned())]);
    }
}
