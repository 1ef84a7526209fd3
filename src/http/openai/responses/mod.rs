//! `/v1/responses`: OpenAI's newer form of a conversation, over the same journey as chat; and the answers that are kept.

mod items;
mod kept;
mod object;
mod output;
mod request;
mod stream;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde_json::Value;

pub use kept::{input_items, remove, retrieve};

use self::kept::Keeper;
use self::object::Object;
use self::request::Asked;
use super::repeated;
use super::reply::{self, Written, write_cost};
use super::sender::{Head, Sender};
use crate::gateway::{Answer, Usage};
use crate::http::Server;
use crate::http::body::JsonBody;
use crate::http::error::ApiError;

/// `POST /v1/responses`
pub async fn create(State(server): State<Server>, Head(sender): Head, JsonBody(body): JsonBody) -> Result<Response, ApiError> {
    let sender = sender?;
    let (server, sender) = (&server, &sender);
    let answer = |body| async move {
        let asked = request::read(server, sender, body).await?;
        respond(server, sender, asked).await
    };
    repeated::body_once(server, sender, "/v1/responses", body, answer).await
}

async fn respond(server: &Server, sender: &Sender, asked: Asked) -> Result<Response, ApiError> {
    let Asked { request, shown, items, is_streamed } = asked;
    let object = Object::new(shown);
    let keeper = object.shown.is_stored.then(|| Keeper::new(server, &sender.caller, items));
    reply::answer(server, "input", request, async |answer| {
        if is_streamed {
            let events = stream::Events::new(object, keeper, sender.show_cost);
            return Ok(Written::Streamed(reply::streamed(events, answer, server.config().keep_alive)));
        }
        whole(answer, object, keeper, sender).await
    })
    .await
    .map_err(request::in_own_words)
}

async fn whole(mut answer: Answer, mut object: Object, keeper: Option<Keeper>, sender: &Sender) -> Result<Written, ApiError> {
    while let Some(piece) = answer.next().await {
        object.take(&piece?);
    }
    object.close();
    let ended = Ended { usage: answer.usage(), cost_nanos: answer.cost_nanos() };
    let body = finished(&mut object, keeper, &ended).await;
    let mut response = Json(body).into_response();
    write_cost(response.headers_mut(), sender.show_cost, ended.cost_nanos);
    Ok(Written::Whole(response, answer.ended_at()))
}

/// What is known of an answer when it has ended.
struct Ended {
    usage: Usage,
    cost_nanos: Option<i64>,
}

/// The answer as it is given, and kept where it is to be.
async fn finished(object: &mut Object, keeper: Option<Keeper>, ended: &Ended) -> Value {
    let body = object.finished(ended.usage);
    let Some(keeper) = keeper else { return body };
    if keeper.keep(&body).await {
        return body;
    }
    // It is billed and given all the same; it says that it cannot be found again.
    object.shown.is_stored = false;
    object.finished(ended.usage)
}
