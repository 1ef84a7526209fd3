//! Reads forms (multipart/form-data) piece by piece, so that files go to the disk as they come. Knows no endpoint.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use axum::body::{Body, BodyDataStream, Bytes};
use axum::extract::multipart::{Field, Multipart, MultipartError};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, header};
use futures::Stream;

use super::error::ApiError;

/// A client that sends nothing for so long has gone.
const SILENCE: Duration = Duration::from_secs(60);
/// Longest value of a field that is not a file, bytes.
const MAX_TEXT: usize = 1024;
/// What stands around the files of a form, bytes at most.
const AROUND: u64 = 64 * 1024;

/// Bytes of a body that are looked at together.
const PIECE: usize = 64 * 1024;
/// Slowest that a body may come, bytes a second: a slower client would hold its place too long.
const SLOWEST: u64 = 16 * 1024;

/// What has come of a body.
#[derive(Debug)]
struct Intake {
    /// Most bytes of the files.
    limit: u64,
    began: Instant,
    came: AtomicU64,
    /// Since something of it was handed on: what stands before a form, or in the head of a field, is kept until its end.
    unread: AtomicU64,
}

impl Intake {
    fn is_too_long(&self) -> bool {
        self.came.load(Ordering::Relaxed) > self.limit.saturating_add(AROUND)
    }

    fn is_too_slow(&self) -> bool {
        let allowed = SILENCE + Duration::from_secs(self.came.load(Ordering::Relaxed) / SLOWEST);
        self.began.elapsed() > allowed
    }

    fn add(&self, bytes: u64) -> Result<(), io::Error> {
        self.came.fetch_add(bytes, Ordering::Relaxed);
        let unread = self.unread.fetch_add(bytes, Ordering::Relaxed);
        if self.is_too_long() {
            return Err(io::Error::other("it is too long"));
        }
        if unread >= AROUND {
            return Err(io::Error::other(format!("no field begins within {AROUND} bytes")));
        }
        Ok(())
    }
}

/// A body in pieces. After each it waits once, so that the reader looks at what it has before it takes more.
struct Metered {
    body: BodyDataStream,
    rest: Bytes,
    is_after_piece: bool,
    intake: Arc<Intake>,
}

impl Stream for Metered {
    type Item = Result<Bytes, io::Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.is_after_piece) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.rest.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_next(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(io::Error::other(error)))),
                Some(Ok(bytes)) => self.rest = bytes,
            }
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        self.is_after_piece = true;
        Poll::Ready(Some(self.intake.add(length as u64).map(|()| piece)))
    }
}

/// A form that comes.
pub struct Form {
    fields: Multipart,
    intake: Arc<Intake>,
}

impl Form {
    /// The form of a request with files of at most `limit` bytes together; `what` says what it should hold.
    pub async fn new(request: Request, limit: u64, what: &str) -> Result<Self, ApiError> {
        let (came, unread) = (AtomicU64::new(0), AtomicU64::new(0));
        let intake = Arc::new(Intake { limit, began: Instant::now(), came, unread });
        let metered = Arc::clone(&intake);
        let request = request.map(|body| {
            let body = body.into_data_stream();
            Body::from_stream(Metered { body, rest: Bytes::new(), is_after_piece: false, intake: metered })
        });
        let fields = Multipart::from_request(request, &()).await.map_err(|_| {
            let message = format!("The request body must be multipart/form-data with a boundary, with {what}.");
            ApiError { param: None, ..ApiError::invalid("", "invalid_content_type", message) }
        })?;
        Ok(Self { fields, intake })
    }

    /// The next field, where there is one.
    pub async fn next(&mut self) -> Result<Option<Entry<'_>>, ApiError> {
        let intake = &self.intake;
        let field = in_time(intake, self.fields.next_field()).await?;
        Ok(field.map(|field| Entry { field, intake }))
    }
}

/// A field of a form.
pub struct Entry<'a> {
    field: Field<'a>,
    intake: &'a Intake,
}

impl Entry<'_> {
    /// Its name.
    pub fn name(&self) -> Option<&str> {
        self.field.name()
    }

    /// The name of its file.
    pub fn file_name(&self) -> Option<&str> {
        self.field.file_name()
    }

    /// The next piece of its content.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        in_time(self.intake, self.field.chunk()).await
    }
}

/// Refuses a body that says itself that it is longer than files of `limit` bytes need.
pub fn check_length(headers: &HeaderMap, limit: u64) -> Result<(), ApiError> {
    let length = headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if length.is_some_and(|length| length > limit.saturating_add(AROUND)) { Err(too_large(limit)) } else { Ok(()) }
}

/// The value of a field that is not a file.
pub async fn text(mut field: Entry<'_>, name: &str) -> Result<String, ApiError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = field.chunk().await? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > MAX_TEXT {
            return Err(ApiError::invalid(name, "string_above_max_length", format!("'{name}' is longer than {MAX_TEXT} bytes.")));
        }
    }
    String::from_utf8(bytes).map_err(|_| ApiError::invalid(name, "invalid_value", format!("'{name}' is not UTF-8.")))
}

/// The error for a field that nobody knows.
pub fn unknown(name: &str) -> ApiError {
    let name: String = name.chars().take(64).collect();
    ApiError::invalid(name.clone(), "unknown_parameter", format!("Unknown parameter: '{name}'."))
}

/// The error for a field that comes again.
pub fn twice(name: &str) -> ApiError {
    let name: String = name.chars().take(64).collect();
    ApiError::invalid(name.clone(), "duplicate_parameter", format!("'{name}' is there twice."))
}

/// The error for a file that must be there.
pub fn missing_file(name: &str) -> ApiError {
    let message = format!("Missing required parameter: the file '{name}'.");
    ApiError::invalid(name, "missing_required_parameter", message)
}

/// The next piece of a body, if it comes.
async fn in_time<T>(intake: &Intake, piece: impl Future<Output = Result<T, MultipartError>>) -> Result<T, ApiError> {
    let incomplete = |reason: String| ApiError {
        param: None,
        ..ApiError::invalid("", "body_incomplete", format!("The request body broke off or is not multipart/form-data: {reason}."))
    };
    match tokio::time::timeout(SILENCE, piece).await {
        Ok(Ok(_)) if intake.is_too_slow() => Err(incomplete("it comes too slowly".to_owned())),
        Ok(Ok(piece)) => {
            intake.unread.store(0, Ordering::Relaxed);
            Ok(piece)
        }
        Ok(Err(_)) if intake.is_too_long() => Err(too_large(intake.limit)),
        Ok(Err(error)) => Err(incomplete(error.body_text())),
        Err(_) => Err(incomplete(format!("nothing came for {} seconds", SILENCE.as_secs()))),
    }
}

/// The error for files that are longer than `limit` bytes together.
pub fn too_large(limit: u64) -> ApiError {
    ApiError::body_too_large(usize::try_from(limit).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use futures::{StreamExt, stream};

    use super::*;

    /// What is left of a body that repeats `piece` after `head` for ever, when it is read to its end.
    async fn read(head: &'static str, piece: &'static [u8]) -> (Option<String>, u64) {
        let chunks = stream::iter([Ok::<_, io::Error>(Bytes::from_static(head.as_bytes()))])
            .chain(stream::repeat_with(|| Ok(Bytes::from_static(piece))));
        let request = Request::post("/").header("content-type", "multipart/form-data; boundary=B");
        let mut form = Form::new(request.body(Body::from_stream(chunks)).unwrap(), 1 << 20, "a file").await.unwrap();
        let result = async {
            while let Some(mut field) = form.next().await? {
                while field.chunk().await?.is_some() {}
            }
            Ok::<_, ApiError>(())
        };
        let code = result.await.unwrap_err().code.map(|code| code.to_string());
        (code, form.intake.came.load(Ordering::Relaxed))
    }

    #[tokio::test]
    async fn a_body_without_an_end_is_broken_off_before_it_fills_the_memory() {
        static NOISE: [u8; 100_000] = [b'x'; 100_000];
        const FIELD: &str = "--B\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f\"\r\n";
        for head in ["", FIELD] {
            let (code, came) = read(head, &NOISE).await;
            assert_eq!(code.as_deref(), Some("body_incomplete"));
            assert!(came < 3 * AROUND, "{came}");
        }
        let head: &'static str = Box::leak(format!("{FIELD}\r\n").into_boxed_str());
        let (code, came) = read(head, &NOISE).await;
        assert_ne!(code.as_deref(), Some("body_incomplete"), "{code:?}");
        assert!((1 << 20..(1 << 20) + 3 * AROUND).contains(&came), "{came}");
    }
}
