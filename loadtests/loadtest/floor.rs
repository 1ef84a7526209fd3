//! The least that a server can do: every request gets the same answer after the same delay, one thread, nothing is looked at. What
//! the load generator measures in front of it is the machine and itself; what it measures more in front of a server is the server.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Result, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::poller::Poller;

const LISTENER: u64 = u64::MAX;
/// Where nothing is due.
const LONG: Duration = Duration::from_secs(60);

struct Connection {
    stream: TcpStream,
    received: Vec<u8>,
    number: u64,
}

/// A request that waits for its time: when, its connection's place and number, and whether a stream was asked for.
struct Due {
    at: Instant,
    place: usize,
    number: u64,
    streamed: bool,
}

/// Answers until the process is ended.
pub fn serve(address: SocketAddr, delay: Duration) -> Result<()> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let mut poller = Poller::new()?;
    poller.watch(&listener, LISTENER)?;
    let (whole, stream) = (whole(), stream());
    let mut connections: Vec<Option<Connection>> = Vec::new();
    // All delays are the same, so that the first to come is the first to be due.
    let mut due: VecDeque<Due> = VecDeque::new();
    let mut tokens = Vec::new();
    let mut number = 0;
    loop {
        let now = Instant::now();
        while let Some(next) = due.pop_front_if(|next| next.at <= now) {
            let connection = connections[next.place].as_mut().filter(|connection| connection.number == next.number);
            // A client that has left or takes no kilobyte is none of this measurement.
            if let Some(connection) = connection {
                let _ = connection.stream.write(if next.streamed { &stream } else { &whole });
            }
        }
        let timeout = due.front().map_or(LONG, |next| next.at.saturating_duration_since(now));
        tokens.clear();
        poller.wait(timeout, &mut tokens)?;
        for &token in &tokens {
            if token == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nodelay(true)?;
                    stream.set_nonblocking(true)?;
                    number += 1;
                    let place = connections.iter().position(Option::is_none).unwrap_or_else(|| {
                        connections.push(None);
                        connections.len() - 1
                    });
                    poller.watch(&stream, place as u64)?;
                    connections[place] = Some(Connection { stream, received: Vec::new(), number });
                }
                continue;
            }
            let place = token as usize;
            let Some(connection) = &mut connections[place] else { continue };
            match connection.receive() {
                Ok(requests) => {
                    let (at, number) = (Instant::now() + delay, connection.number);
                    due.extend(requests.into_iter().map(|streamed| Due { at, place, number, streamed }));
                }
                Err(_) => connections[place] = None,
            }
        }
    }
}

impl Connection {
    /// Reads what is there; for each whole request whether it asks for a stream.
    fn receive(&mut self) -> Result<Vec<bool>> {
        let mut buffer = [0; 16 * 1024];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let mut requests = Vec::new();
        while let Some(end) = self.received.windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&self.received[..end]);
            let fields = head.lines().filter_map(|line| line.split_once(':'));
            let length = fields
                .filter(|(name, _)| name.eq_ignore_ascii_case("content-length"))
                .find_map(|(_, value)| value.trim().parse().ok());
            let length = end + 4 + length.unwrap_or(0usize);
            if self.received.len() < length {
                break;
            }
            requests.push(self.received[..length].windows(13).any(|window| window == b"\"stream\":true"));
            self.received.drain(..length);
        }
        Ok(requests)
    }
}

fn whole() -> Vec<u8> {
    let message = json!({"role": "assistant", "content": "word ".repeat(16)});
    let usage = json!({"prompt_tokens": 50, "completion_tokens": 16, "total_tokens": 66});
    let choices = json!([{"index": 0, "message": message, "finish_reason": "length"}]);
    let body =
        json!({"id": "floor", "object": "chat.completion", "model": "floor", "choices": choices, "usage": usage}).to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
    (head + &body).into_bytes()
}

fn stream() -> Vec<u8> {
    let event = |choice| format!("data: {}\n\n", json!({"id": "floor", "object": "chat.completion.chunk", "choices": [choice]}));
    let mut body: String = (0..16).map(|_| event(json!({"index": 0, "delta": {"content": "word "}}))).collect();
    body += &event(json!({"index": 0, "delta": {}, "finish_reason": "length"}));
    body += "data: [DONE]\n\n";
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    format!("{head}{:x}\r\n{body}\r\n0\r\n\r\n", body.len()).into_bytes()
}
