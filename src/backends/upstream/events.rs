//! Server-sent events: bytes in, the data of events out. Only what chat streams use of the format: `data:` lines, an empty line after
//! each event, comments; other fields are passed over.

/// What one event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    /// `[DONE]`.
    End,
    /// Anything else.
    Text(String),
}

/// Puts events together from pieces of any size.
#[derive(Debug, Default)]
pub(super) struct Events {
    bytes: Vec<u8>,
    data: Vec<String>,
}

impl Events {
    /// Takes what came.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole event, if it is there.
    pub(super) fn next(&mut self) -> Option<Data> {
        let (mut start, mut found) = (0, None);
        while let Some(length) = self.bytes[start..].iter().position(|byte| *byte == b'\n') {
            let line = &self.bytes[start..start + length];
            let line = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned();
            start += length + 1;
            if let Some(data) = line.strip_prefix("data:") {
                self.data.push(data.strip_prefix(' ').unwrap_or(data).to_owned());
            } else if line.is_empty() && !self.data.is_empty() {
                let data = std::mem::take(&mut self.data).join("\n");
                found = Some(if data == "[DONE]" { Data::End } else { Data::Text(data) });
                break;
            }
        }
        self.bytes.drain(..start);
        found
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn events_do_not_depend_on_how_the_bytes_come() {
        let stream =
            ": hello\r\n\r\ndata: {\"a\":\"é\"}\r\n\r\nevent: x\nid: 1\ndata:two\ndata: lines\n\n\n\ndata: [DONE]\n\ndata: half";
        let expected = [Data::Text("{\"a\":\"é\"}".to_owned()), Data::Text("two\nlines".to_owned()), Data::End];
        for size in [1, 2, 7, 1000] {
            let (mut events, mut seen) = (Events::default(), Vec::new());
            for piece in stream.as_bytes().chunks(size) {
                events.push(piece);
                while let Some(data) = events.next() {
                    seen.push(data);
                }
            }
            assert_eq!(seen, expected, "pieces of {size} bytes");
        }
    }
}
