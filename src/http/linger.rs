//! Reads what still comes of a form that was refused: a client that is cut off while it sends does not get to read why.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::Request;
use axum::http::header;
use axum::middleware::Next;
use axum::response::Response;
use futures::Stream;

/// Most bytes that are read for nothing: who has more to send is cut off.
const MOST: usize = 16 << 20;
/// Longest time for it.
const LONGEST: Duration = Duration::from_secs(2);

/// A body that is given back when the one who reads it has gone.
#[derive(Clone)]
struct Lent(Arc<Mutex<BodyDataStream>>);

impl Stream for Lent {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner)).poll_next(context)
    }
}

/// Around everything that may refuse a form.
pub async fn linger(request: Request, next: Next) -> Response {
    let kind = request.headers().get(header::CONTENT_TYPE);
    if !kind.is_some_and(|kind| kind.as_bytes().starts_with(b"multipart/")) {
        return next.run(request).await;
    }
    let (parts, body) = request.into_parts();
    let mut lent = Lent(Arc::new(Mutex::new(body.into_data_stream())));
    let response = next.run(Request::from_parts(parts, Body::from_stream(lent.clone()))).await;
    if response.status().is_client_error() {
        let rest = async {
            let mut came = 0;
            while came < MOST
                && let Some(Ok(bytes)) = poll_fn(|context| Pin::new(&mut lent).poll_next(context)).await
            {
                came += bytes.len();
            }
        };
        // Out of time or at its end, the answer goes out.
        drop(tokio::time::timeout(LONGEST, rest).await);
    }
    response
}
