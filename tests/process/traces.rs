//! Traces as a collector of OTLP sees them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Home, assert_no_secret, client};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CALLER: &str = "00f067aa0ba902b7";

/// A collector: its address, and the head and body of what is posted there.
fn collector(status: &'static str) -> (String, Receiver<(String, Vec<u8>)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (sender, receiver) = channel();
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let mut reader = BufReader::new(stream);
            let mut head = String::new();
            while reader.read_line(&mut head).unwrap() > 2 {}
            let length = head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            let mut body = vec![0; length.unwrap()];
            reader.read_exact(&mut body).unwrap();
            write!(reader.get_mut(), "HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").unwrap();
            // Nobody is left to read it when the test has failed.
            let _ = sender.send((head, body));
        }
    });
    (url, receiver)
}

/// A message of protocol buffers: bytes by field number, numbers as their eight bytes.
fn fields(mut message: &[u8]) -> Vec<(u64, Vec<u8>)> {
    let mut fields = Vec::new();
    while !message.is_empty() {
        let tag = varint(&mut message);
        let value = match tag & 7 {
            0 => varint(&mut message).to_le_bytes().to_vec(),
            kind => {
                let length = match kind {
                    1 => 8,
                    2 => varint(&mut message) as usize,
                    5 => 4,
                    other => panic!("wire type {other}"),
                };
                let (value, rest) = message.split_at(length);
                message = rest;
                value.to_vec()
            }
        };
        fields.push((tag >> 3, value));
    }
    fields
}

fn varint(message: &mut &[u8]) -> u64 {
    let mut value = 0;
    for shift in (0..).step_by(7) {
        let (byte, rest) = message.split_first().unwrap();
        *message = rest;
        value |= u64::from(byte & 127) << shift;
        if byte & 128 == 0 {
            break;
        }
    }
    value
}

/// The values of a field, which may be there many times.
fn all(message: &[u8], number: u64) -> Vec<Vec<u8>> {
    fields(message).into_iter().filter(|(field, _)| *field == number).map(|(_, value)| value).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Debug)]
struct Span {
    trace: String,
    id: String,
    parent: String,
    name: String,
    attributes: BTreeMap<String, String>,
    nanoseconds: u64,
}

/// Field numbers of opentelemetry/proto/trace/v1/trace.proto.
fn spans(body: &[u8]) -> Vec<Span> {
    let scopes = all(body, 1).into_iter().flat_map(|resource| all(&resource, 2));
    let spans = scopes.flat_map(|scope| all(&scope, 2));
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap());
    let span = |span: Vec<u8>| {
        let one = |field| all(&span, field).pop().unwrap_or_default();
        let attributes = all(&span, 9).into_iter().map(|pair| {
            let (kind, value) = fields(&all(&pair, 2)[0]).remove(0);
            (text(all(&pair, 1).remove(0)), if kind == 1 { text(value) } else { number(&value).to_string() })
        });
        let attributes = attributes.collect();
        let (trace, id, parent) = (hex(&one(1)), hex(&one(2)), hex(&one(4)));
        Span { trace, id, parent, name: text(one(5)), attributes, nanoseconds: number(&one(8)) - number(&one(7)) }
    };
    spans.map(span).collect()
}

#[tokio::test]
async fn a_collector_gets_a_span_of_each_request_as_a_child_of_the_callers() {
    let (url, posted) = collector("200 OK");
    let home = Home::new();
    let gap = ["--null-token-gap", "20ms", "--null-tokens", "16"];
    let arguments = ["--backend", "null", "--null-delay", "1ms", "--log-format", "json", "--otlp-endpoint", &url];
    let server = home.serve(&[&arguments[..], &gap].concat());
    let send = async |name: &'static str, flags: Option<&str>, body: Value| {
        let request = client().post(format!("{}/v1/chat/completions", server.url)).bearer_auth(&server.key).json(&body);
        let request = request.header("x-request-id", name);
        let request = match flags {
            Some(flags) => request.header("traceparent", format!("00-{TRACE}-{CALLER}-{flags}")),
            None => request,
        };
        let reply = request.send().await.unwrap();
        let status = reply.status().as_u16();
        (status, reply.text().await.unwrap())
    };
    let body = |stream: bool| json!({"model": "llama3", "messages": [{"role": "user", "content": "a rhubarb for mum"}], "stream": stream});
    assert_eq!(send("streamed", Some("01"), body(true)).await.0, 200);
    assert_eq!(send("refused", Some("01"), json!({})).await.0, 400);
    assert_eq!(send("silent", Some("00"), body(false)).await.0, 200);
    let (status, text) = send("alone", None, body(false)).await;
    assert!(status == 200 && text.ends_with('}'), "{text}");
    server.signal(libc::SIGTERM);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");

    let mut seen = BTreeMap::new();
    for (head, body) in posted.try_iter() {
        assert!(head.starts_with("POST /v1/traces HTTP/1.1\r\n") && head.contains("application/x-protobuf"), "{head}");
        let readable = String::from_utf8_lossy(&body);
        assert!(!readable.contains("rhubarb"), "content is exported");
        assert_no_secret(&readable);
        assert!(readable.contains("switchyard"));
        seen.extend(spans(&body).into_iter().map(|span| (span.attributes["request_id"].clone(), span)));
    }
    assert_eq!(seen.keys().collect::<Vec<_>>(), ["alone", "refused", "streamed"], "{log}");
    for (name, status) in [("streamed", "200"), ("refused", "400"), ("alone", "200")] {
        let span = &seen[name];
        assert_eq!(span.name, "POST /v1/chat/completions");
        let attribute = |key: &str| span.attributes[key].as_str();
        assert_eq!((attribute("http.request.method"), attribute("http.route")), ("POST", "/v1/chat/completions"));
        assert_eq!((attribute("http.response.status_code"), span.attributes.len()), (status, 4), "{span:?}");
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let line = lines.into_iter().find(|line| line["message"] == "request" && line["request_id"] == name).unwrap();
        assert_eq!((&line["trace_id"], &line["span_id"]), (&json!(span.trace), &json!(span.id)), "{line}");
        match name {
            "alone" => assert!(span.trace != TRACE && span.parent.is_empty() && line.get("parent_id").is_none(), "{span:?}"),
            _ => assert_eq!((span.trace.as_str(), span.parent.as_str()), (TRACE, CALLER)),
        }
    }
    assert!(seen["streamed"].nanoseconds > 15 * 20_000_000, "a span ends with the last byte: {:?}", seen["streamed"]);
}

#[tokio::test]
async fn a_collector_that_refuses_is_logged_and_disturbs_nobody() {
    let (url, posted) = collector("403 Forbidden");
    let home = Home::new();
    let server = home.serve(&["--backend", "null", "--otlp-endpoint", &url]);
    assert_eq!(server.get("/v1/models").await.0, 200);
    server.signal(libc::SIGTERM);
    let (status, log) = server.wait();
    assert_eq!(status.code(), Some(0), "{log}");
    posted.recv_timeout(Duration::from_secs(5)).unwrap();
    assert!(log.contains("403"), "{log}");
}
