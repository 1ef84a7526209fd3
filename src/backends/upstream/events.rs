//! Server-sent events: bytes in, the data of events out. Only what chat streams use of the format: `data:` lines, an empty line after
//! each event, comments, the type `error`; other fields are passed over.

/// What one event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    /// `[DONE]`.
    End,
    /// An event of the type `error`.
    Error(String),
    /// Anything else.
    Text(String),
}

/// Puts events together from pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Events {
    bytes: Vec<u8>,
    /// So many of them have no end of a line: they are not looked through again.
    seen: usize,
    data: Vec<String>,
    is_error: bool,
}

impl Events {
    /// Takes what came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Bytes of the event whose end has not come.
    pub(super) fn held(&self) -> usize {
        self.bytes.len() + self.data.iter().map(String::len).sum::<usize>()
    }

    /// The next whole event, if it is there.
    pub(super) fn next(&mut self) -> Option<Data> {
        let (mut start, mut seen, mut found) = (0, std::mem::take(&mut self.seen), None);
        while let Some(more) = self.bytes[seen..].iter().position(|byte| *byte == b'\n') {
            let line = &self.bytes[start..seen + more];
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
            start = seen + more + 1;
            seen = start;
            if let Some(data) = line.strip_prefix("data:") {
                self.data.push(data.strip_prefix(' ').unwrap_or(data).to_owned());
            } else if let Some(kind) = line.strip_prefix("event:") {
                self.is_error = kind.trim() == "error";
            } else if line.is_empty() {
                let is_error = std::mem::take(&mut self.is_error);
                if self.data.is_empty() {
                    continue;
                }
                let data = std::mem::take(&mut self.data).join("\n");
                found = Some(match data {
                    data if is_error => Data::Error(data),
                    data if data == "[DONE]" => Data::End,
                    data => Data::Text(data),
                });
                break;
            }
        }
        self.bytes.drain(..start);
        if found.is_none() {
            self.seen = self.bytes.len();
        }
        found
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn events_do_not_depend_on_how_the_bytes_come() {
        let stream = ": hello\r\n\r\ndata: {\"a\":\"é\"}\r\n\r\nevent: x\nid: 1\ndata:two\ndata: lines\n\n\n\nevent: error\ndata: {}\n\nevent: error\n\ndata: [DONE]\n\ndata: half";
        let text = |text: &str| Data::Text(text.to_owned());
        let expected = [text("{\"a\":\"é\"}"), text("two\nlines"), Data::Error("{}".to_owned()), Data::End];
        for size in [1, 2, 7, 1000] {
            let (mut events, mut seen) = (Events::default(), Vec::new());
            for piece in stream.as_bytes().chunks(size) {
                events.push(piece);
                while let Some(data) = events.next() {
                    seen.push(data);
                }
            }
            assert_eq!(seen, expected, "pieces of {size} bytes");
            assert_eq!(events.held(), "data: half".len());
        }
    }
}
