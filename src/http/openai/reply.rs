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
use crate::gateway::{Answer, CallPiece, FinishReason, GatewayError, GenerationRequest, Piece, ReportedToken, Served, Usage};
use crate::http::Server;
use crate::http::error::ApiError;
use crate::http::limits;
use crate::http::middleware::random_hex;
use crate::tenants::{CacheUse, Rate};

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
/// The head of a stream of events.
pub const EVENT_STREAM: [(HeaderName, HeaderValue); 3] = [
    (header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8")),
    (header::CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    // nginx passes events on at once when it sees this.
    (HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no")),
];
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
    let reports = if request.logprobs.is_some() { Reports::Sent } else { Reports::Omitted };
    answer(server, wanted.endpoint.prompt_field(), request, async |answer| send(server, (wanted, reports), answer).await).await
}

/// The response to a request that arrived then, of an answer that is there.
pub async fn write(server: &Server, wanted: (Wanted, Reports), answer: Answer, arrived: Instant) -> Result<Response, ApiError> {
    written(server, answer, arrived, async |answer| send(server, wanted, answer).await).await
}

async fn send(server: &Server, (wanted, reports): (Wanted, Reports), answer: Answer) -> Result<Written, ApiError> {
    let Wanted { endpoint, delivery, cost } = wanted;
    let id = format!("{}{}", endpoint.id_prefix(), random_hex());
    let model = answer.served().model.clone();
    let head = Head { id: &id, created: now(), model: &model };
    match delivery {
        Delivery::Whole => whole(wanted, &head, answer, reports).await,
        Delivery::Stream { usage } => {
            let frames = Frames::new(endpoint, &head, usage, reports, cost);
            Ok(Written::Streamed(streamed(frames, answer, server.config().keep_alive)))
        }
    }
}

/// How an answer was written.
pub enum Written {
    /// All of it, and when the backend had nothing more to do for it.
    Whole(Response, Instant),
    /// It is being written.
    Streamed(Response),
}

/// Has a request answered, `write` make the response, and the response's head say what answered; `field` holds the prompt.
pub async fn answer(
    server: &Server,
    field: &str,
    request: GenerationRequest,
    write: impl AsyncFnOnce(Answer) -> Result<Written, ApiError>,
) -> Result<Response, ApiError> {
    let arrived = request.origin.arrived;
    let answer = server.gateway().generate(request).await.map_err(|error| refused(server, error, field))?;
    written(server, answer, arrived, write).await
}

async fn written(
    server: &Server,
    answer: Answer,
    arrived: Instant,
    write: impl AsyncFnOnce(Answer) -> Result<Written, ApiError>,
) -> Result<Response, ApiError> {
    let submitted = Instant::now();
    let (served, rate, cache) = (answer.served().clone(), answer.rate(), answer.cache());
    let (mut response, waited) = match write(answer).await? {
        Written::Whole(response, ended) => (response, ended),
        Written::Streamed(response) => (response, submitted),
    };
    // Of a stream, what is known when its head leaves.
    let overhead = submitted.duration_since(arrived) + waited.elapsed();
    write_facts(server, response.headers_mut(), &Facts { served: &served, rate, cache, overhead })?;
    Ok(response)
}

/// The error for a client, counted where it is over a limit; `field` is the one that holds the prompt.
pub fn refused(server: &Server, error: GatewayError, field: &str) -> ApiError {
    let error = ApiError::from(error).with_prompt_field(field);
    if error.status == StatusCode::TOO_MANY_REQUESTS {
        server.metrics().refused(error.code.unwrap_or_default());
    }
    error
}

/// What a response's head says about its answer.
pub struct Facts<'a> {
    /// What answered.
    pub served: &'a Served,
    /// What is left of the caller's limits.
    pub rate: Rate,
    /// What the response cache did.
    pub cache: CacheUse,
    /// What the request took here besides waiting for the backend.
    pub overhead: Duration,
}

/// Says it.
pub fn write_facts(server: &Server, headers: &mut HeaderMap, facts: &Facts<'_>) -> Result<(), ApiError> {
    write_served(headers, facts.served)?;
    headers.insert(CACHE, HeaderValue::from_static(facts.cache.name()));
    limits::write(headers, facts.rate);
    server.gateway().metrics().overhead(facts.overhead);
    headers.insert(OVERHEAD, HeaderValue::from(u64::try_from(facts.overhead.as_micros()).unwrap_or(u64::MAX)));
    Ok(())
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
pub fn now() -> u64 {
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

async fn whole(wanted: Wanted, head: &Head<'_>, mut answer: Answer, reports: Reports) -> Result<Written, ApiError> {
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
    write_cost(response.headers_mut(), wanted.cost, answer.cost_nanos());
    Ok(Written::Whole(response, answer.ended_at()))
}

/// Says what an answer costs, nano-dollars, where that was asked for.
pub fn write_cost(headers: &mut HeaderMap, asked: ShowCost, nanos: Option<i64>) {
    if asked == ShowCost::Shown
        && let Some(Ok(cost)) = nanos.map(|nanos| HeaderValue::try_from(limits::usd(nanos)))
    {
        headers.insert(COST, cost);
    }
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

/// Writes the events of an answer.
pub trait EventWriter: Send + 'static {
    /// Before the first piece of so many answers.
    fn begin(&mut self, out: &mut Vec<u8>, choices: usize);
    /// Of a piece.
    fn piece(&mut self, out: &mut Vec<u8>, piece: &Piece);
    /// After the last piece; the cost in nano-dollars.
    fn end(&mut self, out: &mut Vec<u8>, usage: Usage, cost_nanos: Option<i64>) -> impl Future<Output = ()> + Send;
    /// Of a failure after the stream has begun: the status is sent already.
    fn failure(&mut self, out: &mut Vec<u8>, error: &ApiError);
}

/// A stream of events, one write for all pieces that are there.
struct Stream<W> {
    writer: W,
    answer: Answer,
    keep_alive: Duration,
    /// Events to send before waiting.
    begun: Vec<u8>,
    ended: bool,
}

/// A response whose events come as the answer does.
pub fn streamed(mut writer: impl EventWriter, answer: Answer, keep_alive: Duration) -> Response {
    let mut begun = Vec::new();
    writer.begin(&mut begun, answer.choices());
    let stream = Stream { writer, answer, keep_alive, begun, ended: false };
    // The body is asked for its pieces when the handler has returned.
    let span = tracing::Span::current();
    let body = Body::from_stream(unfold(stream, move |mut stream| {
        let next = async move {
            let bytes = stream.next().await?;
            Some((Ok::<_, Infallible>(bytes), stream))
        };
        next.instrument(span.clone())
    }));
    (EVENT_STREAM, body).into_response()
}

impl<W: EventWriter> Stream<W> {
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
                Some(Ok(now)) => self.writer.piece(&mut out, &now),
                Some(Err(error)) => {
                    self.writer.failure(&mut out, &ApiError::from(error));
                    self.ended = true;
                    break;
                }
                None => {
                    let (usage, cost_nanos) = (self.answer.usage(), self.answer.cost_nanos());
                    self.writer.end(&mut out, usage, cost_nanos).await;
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
