//! Answers of models that are other servers: their choices as they came, in an envelope of ours. What else they send stays here.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use axum::Json;
use axum::body::{Body, Bytes};
use axum::response::{IntoResponse, Response};
use futures::stream::unfold;
use serde_json::{Value, json};
use tracing::Instrument;

use super::frames::{DONE, Frames, KEEP_ALIVE, Reports, json as write_json};
use super::generation::{Delivery, StreamUsage};
use super::reply::{EVENT_STREAM, Facts, now, refused, write_cost, write_facts};
use super::sender::{Sender, ShowCost};
use super::{relay_request, reply, wire};
use crate::gateway::{Answered, Endpoint, GenerationRequest, Relayed, RelayedStream, RelayedWhole, Route};
use crate::http::Server;
use crate::http::error::ApiError;
use crate::http::limits;
use crate::http::middleware::random_hex;
use crate::tenants::CacheUse;

/// What a body asks for, where its model is another server; `None` where it is not.
pub fn route(server: &Server, sender: &Sender, body: &Value, endpoint: Endpoint) -> Result<Option<Route>, ApiError> {
    let Some(model) = body.get("model").and_then(Value::as_str) else { return Ok(None) };
    Ok(server.gateway().route(&sender.caller, model, endpoint)?)
}

/// Answers a request for a model that is another server, or may be: `here` is the request for what answers here.
pub async fn reply(
    server: &Server,
    sender: &Sender,
    body: &Value,
    (endpoint, route): (Endpoint, &Route),
    here: Option<GenerationRequest>,
) -> Result<Response, ApiError> {
    let (request, delivery) = relay_request::parse(body, sender, &server.limits(), (endpoint, route))?;
    let arrived = request.origin.arrived;
    let reported = here.as_ref().is_some_and(|request| request.logprobs.is_some());
    let answered = server.gateway().answer(here, request).await.map_err(|error| refused(server, error, field(endpoint)))?;
    let cost = sender.show_cost;
    match answered {
        Answered::There(relayed) => respond(server, relayed, &Wanted { endpoint, delivery, cost, arrived }),
        Answered::Here(answer) => {
            let wanted = reply::Wanted { endpoint: wire_endpoint(endpoint), delivery, cost };
            let reports = if reported { Reports::Sent } else { Reports::Omitted };
            reply::write(server, (wanted, reports), *answer, arrived).await
        }
    }
}

/// The field that holds the prompt.
pub const fn field(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::Chat => "messages",
        Endpoint::Completions => "prompt",
        Endpoint::Embeddings => "input",
    }
}

/// How an answer is wanted.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// What was asked for.
    pub endpoint: Endpoint,
    /// Whole or streamed.
    pub delivery: Delivery,
    /// Whether it says what it costs.
    pub cost: ShowCost,
    /// When the request arrived.
    pub arrived: Instant,
}

/// The response to a request that another server answers.
pub fn respond(server: &Server, relayed: Relayed, wanted: &Wanted) -> Result<Response, ApiError> {
    match relayed {
        Relayed::Whole(whole) => {
            let mut response = Json(body(&whole, wanted.endpoint)).into_response();
            let headers = response.headers_mut();
            write_cost(headers, wanted.cost, whole.cost_nanos);
            let overhead = whole.asked.saturating_duration_since(wanted.arrived) + whole.ended.elapsed();
            write_facts(server, headers, &Facts { served: &whole.served, rate: whole.rate, cache: CacheUse::Bypass, overhead })?;
            Ok(response)
        }
        Relayed::Stream(stream) => {
            let (served, rate) = (stream.served().clone(), stream.rate());
            let overhead = stream.asked_at().saturating_duration_since(wanted.arrived);
            let usage = match wanted.delivery {
                Delivery::Stream { usage } => usage,
                Delivery::Whole => StreamUsage::Omitted,
            };
            let head = head(wanted.endpoint, &served.model);
            let events = Events { stream, head, usage, cost: wanted.cost, keep_alive: server.config().keep_alive, ended: false };
            let mut response = streamed(events);
            write_facts(server, response.headers_mut(), &Facts { served: &served, rate, cache: CacheUse::Bypass, overhead })?;
            Ok(response)
        }
    }
}

/// A whole answer under our name; what the other server says about itself is left out.
fn body(whole: &RelayedWhole, endpoint: Endpoint) -> Value {
    let model = &whole.served.model;
    let usage = usage(whole, endpoint);
    if endpoint == Endpoint::Embeddings {
        return json!({"object": "list", "data": whole.body["data"], "model": model, "usage": usage});
    }
    let wire = wire_endpoint(endpoint);
    json!({
        "id": format!("{}{}", wire.id_prefix(), random_hex()),
        "object": wire.object(),
        "created": now(),
        "model": model,
        "choices": whole.body["choices"],
        "usage": usage,
    })
}

fn usage(whole: &RelayedWhole, endpoint: Endpoint) -> Value {
    match endpoint {
        Endpoint::Embeddings => {
            json!({"prompt_tokens": whole.usage.prompt_tokens, "total_tokens": whole.usage.prompt_tokens})
        }
        Endpoint::Chat | Endpoint::Completions => wire::usage(whole.usage),
    }
}

const fn wire_endpoint(endpoint: Endpoint) -> wire::Endpoint {
    match endpoint {
        Endpoint::Completions => wire::Endpoint::Completions,
        Endpoint::Chat | Endpoint::Embeddings => wire::Endpoint::Chat,
    }
}

/// Everything of an event up to its choices.
fn head(endpoint: Endpoint, model: &str) -> Vec<u8> {
    let wire = wire_endpoint(endpoint);
    let mut head = b"data: ".to_vec();
    let id = format!("{}{}", wire.id_prefix(), random_hex());
    write_json(&mut head, &json!({"id": id, "object": wire.chunk_object(), "created": now(), "model": model}));
    // The object goes on.
    head.pop();
    head.extend_from_slice(b",\"choices\":");
    head
}

/// A stream of events.
struct Events {
    stream: Box<RelayedStream>,
    head: Vec<u8>,
    usage: StreamUsage,
    cost: ShowCost,
    keep_alive: Duration,
    ended: bool,
}

fn streamed(events: Events) -> Response {
    // The body is asked for its pieces when the handler has returned.
    let span = tracing::Span::current();
    let body = Body::from_stream(unfold(events, move |mut events| {
        let next = async move {
            let bytes = events.next().await?;
            Some((Ok::<_, Infallible>(bytes), events))
        };
        next.instrument(span.clone())
    }));
    (EVENT_STREAM, body).into_response()
}

impl Events {
    async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        let Ok(next) = tokio::time::timeout(self.keep_alive, self.stream.next()).await else {
            return Some(Bytes::from_static(KEEP_ALIVE));
        };
        let mut out = Vec::new();
        match next {
            Some(Ok(choices)) => self.event(&mut out, &choices, None),
            Some(Err(error)) => {
                Frames::failure(&mut out, &ApiError::from(error));
                self.ended = true;
            }
            None => {
                if self.usage == StreamUsage::Sent {
                    let mut usage = wire::usage(self.stream.usage());
                    if let (ShowCost::Shown, Some(nanos)) = (self.cost, self.stream.cost_nanos()) {
                        usage["cost_usd"] = limits::usd(nanos).into();
                    }
                    self.event(&mut out, &json!([]), Some(&usage));
                }
                out.extend_from_slice(DONE);
                self.ended = true;
            }
        }
        Some(out.into())
    }

    fn event(&self, out: &mut Vec<u8>, choices: &Value, usage: Option<&Value>) {
        out.extend_from_slice(&self.head);
        write_json(out, choices);
        if self.usage == StreamUsage::Sent {
            out.extend_from_slice(b",\"usage\":");
            write_json(out, &usage);
        }
        out.extend_from_slice(b"}\n\n");
    }
}
