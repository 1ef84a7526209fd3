//! Where work is done: little at once, much of it off the threads that serve requests. Knows nothing of what the work is.

use super::GatewayError;

/// Work on more bytes than this is handed to a thread for blocking work: less takes less time than the hand-over.
const INLINE_BYTES: usize = 16 * 1024;
/// What a token costs to decode or to look up, in bytes of text that take as long to tokenize.
pub(super) const TOKEN_BYTES: usize = 8;

/// Whether work on so many bytes is done on another thread.
pub(super) const fn is_much(bytes: usize) -> bool {
    bytes > INLINE_BYTES
}

/// Does work on so many bytes, here or on another thread.
pub(super) async fn by_size<T: Send + 'static>(
    bytes: usize,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, GatewayError> {
    if !is_much(bytes) {
        return Ok(work());
    }
    let span = tracing::Span::current();
    let done = tokio::task::spawn_blocking(move || span.in_scope(work)).await;
    done.map_err(|error| GatewayError::Tokenizer(error.to_string()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]
    use super::*;

    #[tokio::test]
    async fn much_work_leaves_the_thread() {
        let here = std::thread::current().id();
        let place = || std::thread::current().id();
        assert_eq!(by_size(INLINE_BYTES, place).await.unwrap(), here);
        assert_ne!(by_size(INLINE_BYTES + 1, place).await.unwrap(), here);
        let broken = by_size(INLINE_BYTES + 1, || panic!("text")).await;
        assert!(matches!(broken, Err::<(), _>(GatewayError::Tokenizer(_))));
    }
}
