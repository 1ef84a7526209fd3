//! From a checked request to a response: whole, or as a stream that cancels the answer when it is dropped.

use std::convert::Infallible;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures::stream::unfold;
use serde::Serialize;
use serde_json::{Value, json};
use tracing::Instrument;

use super::frames::{Frames, Head, KEEP_ALIVE, Reports};
use super::generation::Delivery;
use super::sender::ShowCost;
use super::wire::{self, Endpoint, Logprobs};
use crate::gateway::{Answer, CallPiece, FinishReason, GenerationRequest, ReportedToken, Served};
use crate::http::Server;
use crate::http::error::ApiError;
use crate::http::limits;
use crate::http::middleware::random_hex;

/// Says which version answered.
const ADAPTER_VERSION: HeaderName = HeaderName::from_static("x-adapter-version");
/// Says which deployment was asked.
const DEPLOYMENT: HeaderName = HeaderName::from_static("x-deployment");
/// Says which of its arms answered.
const ARM: HeaderName = HeaderName::from_static("x-experiment-arm");
/// Says what the response cache did.
const CACHE: HeaderName = HeaderName::from_static("x-cache");
/// Microseconds that the request took here besides waiting for the backend.
const OVERHEAD: HeaderName = HeaderName::from_static("x-gateway-overhead-us");
/// Says what the answer costs, where that was asked for.
pub const COST: HeaderName = HeaderName::from_static("x-cost-usd");
/// A write is not made larger than this by waiting pieces, bytes.
const WRITE_BYTES: usize = 64 * 1024;

/// How an answer is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// Which route.
    pub endpoint: Endpoint,
    /// Whole or streamed.
    pub delivery: Delivery,
    /// Whether it says what it costs.
    pub cost: ShowCost,
}

/// Answers a request.
pub async fn reply(server: &Server, wanted: Wanted, request: GenerationRequest) -> Result<Response, ApiError> {
    let Wanted { endpoint, delivery, cost } = wanted;
    let reports = if request.logprobs.is_some() { Reports::Sent } else { Reports::Omitted };
    let arrived = request.origin.arrived;
    let answer = server.gateway().generate(request).await;
    let answer = answer.map_err(|error| {
        let error = ApiError::from(error).with_prompt_field(endpoint.prompt_field());
        if error.status == StatusCode::TOO_MANY_REQUESTS {
            server.metrics().refused(error.code.unwrap_or_default());
        }
        error
    })?;
    let submitted = Instant::now();
    let (served, rate, cache) = (answer.served().clone(), answer.rate(), answer.cache());
    let id = format!("{}{}", endpoint.id_prefix(), random_hex());
    let head = Head { id: &id, created: now(), model: &served.model };
    let (mut response, waited) = match delivery {
        Delivery::Whole => whole(wanted, &head, answer, reports).await?,
        Delivery::Stream { usage } => {
            let frames = Frames::new(endpoint, &head, usage, reports, cost);
            (streamed(frames, answer, server.config().keep_alive), submitted)
        }
    };
    let headers = response.headers_mut();
    write_served(headers, &served)?;
    headers.insert(CACHE, HeaderValue::from_static(cache.name()));
    limits::write(headers, rate);
    // Of a stream, what is known when its head leaves.
    let overhead = submitted.duration_since(arrived) + waited.elapsed();
    server.gateway().metrics().overhead(overhead);
    headers.insert(OVERHEAD, HeaderValue::from(u64::try_from(overhead.as_micros()).unwrap_or(u64::MAX)));
    Ok(response)
}

/// Says what answered.
pub fn write_served(headers: &mut HeaderMap, served: &Served) -> Result<(), ApiError> {
    headers.insert(ADAPTER_VERSION, HeaderValue::try_from(&served.version).map_err(|error| ApiError::internal(&error))?);
    if let Some(by) = &served.by {
        // Both names are letters, digits and '._-'.
        let pair = [(DEPLOYMENT, &by.deployment), (ARM, &by.arm)];
        for (name, value) in pair {
            headers.insert(name, HeaderValue::try_from(&**value).map_err(|error| ApiError::internal(&error))?);
        }
    }
    Ok(())
}

/// Seconds since 1970.
fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[derive(Default)]
struct Choice {
    text: String,
    calls: Vec<CallPiece>,
    prompt: Arc<[ReportedToken]>,
    tokens: Vec<ReportedToken>,
    finish: Option<FinishReason>,
}

/// The response, and when the backend had nothing more to do for it.
async fn whole(wanted: Wanted, head: &Head<'_>, mut answer: Answer, reports: Reports) -> Result<(Response, Instant), ApiError> {
    let endpoint = wanted.endpoint;
    let mut choices: Vec<Choice> = (0..answer.choices()).map(|_| Choice::default()).collect();
    while let Some(piece) = answer.next().await {
        let piece = piece?;
        let choice = &mut choices[piece.choice];
        choice.text.push_str(&piece.text);
        for call in piece.calls {
            match choice.calls.get_mut(call.index) {
                Some(known) => known.arguments.push_str(&call.arguments),
                None => choice.calls.push(call),
            }
        }
        if !piece.prompt.is_empty() {
            choice.prompt = piece.prompt;
        }
        choice.tokens.extend(piece.tokens);
        choice.finish = choice.finish.or(piece.finish);
    }
    let choices = choices
        .iter()
        .enumerate()
        .map(|(index, choice)| {
            let content = Some(choice.text.as_str()).filter(|text| choice.calls.is_empty() || !text.trim().is_empty());
            let tool_calls = choice.calls.iter().map(whole_call).collect();
            let message = Message { role: "assistant", content, refusal: (), tool_calls };
            WholeChoice {
                index,
                message: (endpoint == Endpoint::Chat).then_some(message),
                text: (endpoint == Endpoint::Completions).then_some(&choice.text),
                logprobs: (reports == Reports::Sent).then_some(Logprobs {
                    endpoint,
                    prompt: &choice.prompt,
                    tokens: &choice.tokens,
                }),
                finish_reason: choice.finish.map(wire::finish_reason),
            }
        })
        .collect();
    let body = Whole {
        id: head.id,
        object: endpoint.object(),
        created: head.created,
        model: head.model,
        choices,
        usage: wire::usage(answer.usage()),
    };
    let mut response = Json(body).into_response();
    if wanted.cost == ShowCost::Shown
        && let Some(Ok(cost)) = answer.cost_nanos().map(|nanos| HeaderValue::try_from(limits::usd(nanos)))
    {
        response.headers_mut().insert(COST, cost);
    }
    Ok((response, answer.ended_at()))
}

#[derive(Serialize)]
struct Whole<'a> {
    id: &'a str,
    object: &'static str,
    created: u64,
    model: &'a str,
    choices: Vec<WholeChoice<'a>>,
    usage: Value,
}

#[derive(Serialize)]
struct WholeChoice<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<Message<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<&'a String>,
    logprobs: Option<Logprobs<'a>>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct Message<'a> {
    role: &'static str,
    content: Option<&'a str>,
    refusal: (),
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<Value>,
}

fn whole_call(call: &CallPiece) -> Value {
    let (id, name) = call.begins.clone().unwrap_or_default();
    json!({"id": id, "type": "function", "function": {"name": name, "arguments": call.arguments}})
}

/// A stream of events, one write for all pieces that are there.
struct Stream {
    frames: Frames,
    answer: Answer,
    keep_alive: Duration,
    /// Events to send before waiting.
    begun: Vec<u8>,
    ended: bool,
}

fn streamed(frames: Frames, answer: Answer, keep_alive: Duration) -> Response {
    let mut begun = Vec::new();
    frames.begin(&mut begun, answer.choices());
    let stream = Stream { frames, answer, keep_alive, begun, ended: false };
    // The body is asked for its pieces when the handler has returned.
    let span = tracing::Span::current();
    let body = Body::from_stream(unfold(stream, move |mut stream| {
        let next = async move {
            let bytes = stream.next().await?;
            Some((Ok::<_, Infallible>(bytes), stream))
        };
        next.instrument(span.clone())
    }));
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
        // nginx passes events on at once when it sees this.
        (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
    ];
    (headers, body).into_response()
}

impl Stream {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let mut out = std::mem::take(&mut self.begun);
        // The first write carries the head at once; later ones wait for a piece.
        let mut piece = if out.is_empty() {
            match tokio::time::timeout(self.keep_alive, self.answer.next()).await {
                Ok(piece) => Poll::Ready(piece),
                Err(_) => return Some(Bytes::from_static(KEEP_ALIVE)),
            }
        } else {
            self.answer.next_ready()
        };
        while let Poll::Ready(now) = piece {
            match now {
                Some(Ok(now)) => self.frames.piece(&mut out, &now),
                Some(Err(error)) => {
                    Frames::failure(&mut out, &ApiError::from(error));
                    self.ended = true;
                    break;
                }
                None => {
                    self.frames.end(&mut out, self.answer.usage(), self.answer.cost_nanos());
                    self.ended = true;
                    break;
                }
            }
            if out.len() > WRITE_BYTES {
                break;
            }
            piece = self.answer.next_ready();
        }
        Some(out.into())
    }
}
