//! A span of each request, exported over OTLP in builds with the feature `otlp`; others have the same doors, which lead nowhere and
//! cost nothing. What is exported is in [`Request`] and the status: never content, never keys.

#[cfg(not(feature = "otlp"))]
mod absent;
#[cfg(feature = "otlp")]
mod otlp;

#[cfg(not(feature = "otlp"))]
pub use absent::{Span, begin, export, flush};
#[cfg(feature = "otlp")]
pub use otlp::{Span, begin, export, flush};

/// What is said about a request when it begins.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `POST`.
    pub method: &'a str,
    /// The path as it is routed, with names in place of what callers put there.
    pub route: &'a str,
    /// Names the request in answers and logs.
    pub request_id: &'a str,
    /// The caller's span, where it named one.
    pub parent: Option<Parent<'a>>,
}

/// A span of somebody else's.
#[derive(Debug, Clone, Copy)]
pub struct Parent<'a> {
    /// 32 hexadecimal digits.
    pub trace_id: &'a str,
    /// 16 hexadecimal digits.
    pub span_id: &'a str,
    /// Whether it is recorded: if not, neither are its children.
    pub sampled: Sampled,
}

/// Whether a span is recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sampled {
    /// It is.
    Yes,
    /// It is not.
    No,
}

/// Why traces are not exported.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// Built without it.
    #[error("this build exports no traces (build with --features otlp)")]
    Absent,
    /// No client to export with.
    #[error("cannot export traces: {0}")]
    Client(#[from] crate::outbound::OutboundError),
    /// No thread to export on.
    #[error("cannot export traces: {0}")]
    Thread(#[from] std::io::Error),
    /// The exporter refused its settings.
    #[error("cannot export traces: {0}")]
    Exporter(String),
}
