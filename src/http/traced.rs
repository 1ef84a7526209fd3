//! A response whose span ends with its body. Knows nothing of how spans are exported.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody};
use axum::response::Response;
use http_body::{Frame, SizeHint};

use crate::telemetry::traces::Span;

/// The response; `span` ends when its last byte is taken, or when nobody wants it any more.
pub fn traced(response: Response, mut span: Span) -> Response {
    span.answered(response.status().as_u16());
    response.map(|body| Body::new(Traced { body, _span: span }))
}

struct Traced {
    body: Body,
    /// Ends when it is dropped.
    _span: Span,
}

impl HttpBody for Traced {
    type Data = <Body as HttpBody>::Data;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
