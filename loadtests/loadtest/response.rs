//! Just enough of HTTP/1.1 to know an answer's status, when its body begins and ends, and how it ends. Fed with bytes as they
//! come; keeps the last ones only.

/// How much of the body's end is kept.
const TAIL: usize = 256;
/// Longest head that is taken for one.
const MAX_HEAD: usize = 64 * 1024;

/// What the bytes so far say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Not the end.
    More,
    /// The answer is complete; bytes of something else must not follow.
    End,
}

/// The answer is not HTTP as it is understood here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken(pub &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Head,
    /// So many bytes of the body are left.
    Counted(usize),
    /// Digits of a chunk's size so far; then whatever follows them in the line.
    Size(usize, SizeLine),
    Chunk(usize),
    /// Line feeds of the chunk's end to come.
    ChunkEnd,
    /// After the last chunk: true at the beginning of a line.
    Trailer(bool),
    Complete,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SizeLine {
    Digits,
    Rest,
}

/// Reads one answer after the other.
#[derive(Debug)]
pub struct Response {
    state: State,
    head: Vec<u8>,
    tail: Vec<u8>,
    /// Status of the answer; 0 before its head is there.
    pub status: u16,
    /// A byte of the body came.
    pub body_began: bool,
    /// The server closes the connection after this answer.
    pub closes: bool,
}

impl Default for Response {
    fn default() -> Self {
        Self { state: State::Head, head: Vec::new(), tail: Vec::new(), status: 0, body_began: false, closes: false }
    }
}

impl Response {
    /// Forgets the answer before.
    pub fn reset(&mut self) {
        self.state = State::Head;
        self.head.clear();
        self.tail.clear();
        self.status = 0;
        self.body_began = false;
        self.closes = false;
    }

    /// Takes the next bytes.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<Seen, Broken> {
        while let Some(&first) = bytes.first() {
            match self.state {
                State::Head => bytes = self.head(bytes)?,
                State::Counted(left) => {
                    let (body, rest) = bytes.split_at(left.min(bytes.len()));
                    self.body(body);
                    bytes = rest;
                    self.state = if left == body.len() { State::Complete } else { State::Counted(left - body.len()) };
                }
                State::Size(size, line) => {
                    bytes = &bytes[1..];
                    self.state = match (first, line) {
                        (b'\n', _) if size == 0 => State::Trailer(true),
                        (b'\n', _) => State::Chunk(size),
                        (byte, SizeLine::Digits) => match char::from(byte).to_digit(16) {
                            Some(digit) if size < usize::MAX >> 8 => State::Size(size * 16 + digit as usize, SizeLine::Digits),
                            Some(_) => return Err(Broken("a chunk is too large")),
                            None => State::Size(size, SizeLine::Rest),
                        },
                        (_, SizeLine::Rest) => self.state,
                    };
                }
                State::Chunk(left) => {
                    let (body, rest) = bytes.split_at(left.min(bytes.len()));
                    self.body(body);
                    bytes = rest;
                    self.state = if left == body.len() { State::ChunkEnd } else { State::Chunk(left - body.len()) };
                }
                State::ChunkEnd => {
                    bytes = &bytes[1..];
                    if first == b'\n' {
                        self.state = State::Size(0, SizeLine::Digits);
                    }
                }
                State::Trailer(at_start) => {
                    bytes = &bytes[1..];
                    self.state = match first {
                        b'\n' if at_start => State::Complete,
                        b'\n' => State::Trailer(true),
                        b'\r' => self.state,
                        _ => State::Trailer(false),
                    };
                }
                State::Complete => return Err(Broken("bytes after the end of an answer")),
            }
        }
        Ok(if self.state == State::Complete { Seen::End } else { Seen::More })
    }

    fn head<'a>(&mut self, bytes: &'a [u8]) -> Result<&'a [u8], Broken> {
        // The end of the head may lie across what came before.
        let before = self.head.len();
        self.head.extend_from_slice(bytes);
        let from = before.saturating_sub(3);
        let Some(end) = self.head[from..].windows(4).position(|window| window == b"\r\n\r\n") else {
            return if self.head.len() > MAX_HEAD { Err(Broken("the head is too long")) } else { Ok(&[]) };
        };
        let end = from + end + 4;
        let rest = &bytes[end - before..];
        let text = std::str::from_utf8(&self.head[..end]).map_err(|_| Broken("the head is not text"))?;
        let mut lines = text.split("\r\n");
        let status = lines.next().and_then(|line| line.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok());
        self.status = status.ok_or(Broken("the first line is not HTTP/1"))?;
        let (mut length, mut chunked) = (None, false);
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(value.parse::<usize>().map_err(|_| Broken("Content-Length is no number"))?);
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                chunked = value.eq_ignore_ascii_case("chunked");
            } else if name.eq_ignore_ascii_case("connection") {
                self.closes = value.eq_ignore_ascii_case("close");
            }
        }
        self.state = match (chunked, length) {
            (true, _) => State::Size(0, SizeLine::Digits),
            (false, Some(0)) => State::Complete,
            (false, Some(length)) => State::Counted(length),
            (false, None) => return Err(Broken("neither a length nor chunks")),
        };
        Ok(rest)
    }

    fn body(&mut self, bytes: &[u8]) {
        self.body_began |= !bytes.is_empty();
        let new = &bytes[bytes.len().saturating_sub(TAIL)..];
        let keep = TAIL - new.len();
        if self.tail.len() > keep {
            self.tail.drain(..self.tail.len() - keep);
        }
        self.tail.extend_from_slice(new);
    }

    /// Whether a stream of events ended as it should: with `[DONE]`, and not after an error.
    pub fn is_whole_stream(&self) -> bool {
        let tail = self.tail.trim_ascii_end();
        tail.ends_with(b"data: [DONE]") && !tail.windows(8).any(|window| window == b"\"error\":")
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    const CHUNKED: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n\
        6\r\ndata: \r\n1C;x=y\r\n{\"a\":1}\n\ndata: [DONE]\n\n12345\r\n0\r\nA: b\r\n\r\n";
    const COUNTED: &[u8] = b"HTTP/1.1 429 Too Many\r\ncontent-length: 2\r\nConnection: close\r\n\r\n{}";

    #[test]
    fn answers_are_read_whatever_pieces_they_come_in() {
        for size in 1..CHUNKED.len() {
            let mut response = Response::default();
            let pieces: Vec<&[u8]> = CHUNKED.chunks(size).collect();
            for (index, piece) in pieces.iter().enumerate() {
                let seen = response.feed(piece).unwrap();
                assert_eq!(seen == Seen::End, index + 1 == pieces.len(), "piece {index} of {size} bytes");
            }
            assert_eq!((response.status, response.closes), (200, false));
            assert_eq!(response.tail, b"data: {\"a\":1}\n\ndata: [DONE]\n\n12345");
            response.reset();
            for piece in COUNTED.chunks(size) {
                response.feed(piece).unwrap();
            }
            assert_eq!((response.status, response.closes, response.state), (429, true, State::Complete));
            assert_eq!(response.feed(b"x"), Err(Broken("bytes after the end of an answer")));
        }
    }

    #[test]
    fn a_stream_ends_with_done_and_without_an_error() {
        let ends = |body: &str| {
            let mut response = Response::default();
            response.body(body.as_bytes());
            response.is_whole_stream()
        };
        assert!(ends("data: {}\n\ndata: [DONE]\n\n"));
        assert!(!ends("data: {}\n\n"));
        assert!(!ends("data: {\"error\": {}}\n\ndata: [DONE]\n\n"));
        assert!(ends(&format!("data: {{\"error\": {}}}\n\ndata: [DONE]\n\n", "x".repeat(300))), "only the tail is looked at");
    }
}
