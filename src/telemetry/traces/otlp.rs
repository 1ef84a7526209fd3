//! Spans over OTLP (HTTP with protobuf), in batches, from a thread of their own. A full queue drops spans; no request waits for it.
//! Headers for the collector (its key) come from the variables `OTEL_EXPORTER_OTLP_HEADERS` and
//! `OTEL_EXPORTER_OTLP_TRACES_HEADERS`, which the exporter reads.

use std::pin::Pin;
use std::sync::OnceLock;
use std::time::Duration;

use opentelemetry::trace::{
    Span as _, SpanContext, SpanId, SpanKind, Status, TraceContextExt, TraceFlags, TraceId, TraceState, Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_http::{Bytes, HttpClient, HttpError, Response};
use opentelemetry_otlp::{Protocol, SpanExporter, WithExportConfig, WithHttpConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{SdkTracer, SdkTracerProvider};

use super::{Parent, Request, Sampled, TracesError};
use crate::outbound::{Address, Caller};

/// Longest wait for the collector's answer to a batch.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Most bytes of the collector's answer; a good one is nearly empty.
const ANSWER_LIMIT: usize = 64 * 1024;
/// Others are not of HTTP, and a caller could invent any number of them.
const METHODS: [&str; 9] = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

static EXPORT: OnceLock<Export> = OnceLock::new();

struct Export {
    provider: SdkTracerProvider,
    tracer: SdkTracer,
}

/// A request that is being answered. Ends when it is dropped.
pub struct Span(Box<opentelemetry_sdk::trace::Span>);

impl Span {
    /// Trace and span, 32 and 16 hexadecimal digits.
    pub fn ids(&self) -> (String, String) {
        let context = self.0.span_context();
        (context.trace_id().to_string(), context.span_id().to_string())
    }

    /// Notes the status of the response.
    pub fn answered(&mut self, status: u16) {
        self.0.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if status >= 500 {
            self.0.set_status(Status::error(""));
        }
    }
}

/// A span that begins now; `None` where traces are not exported.
pub fn begin(request: &Request<'_>) -> Option<Span> {
    let export = EXPORT.get()?;
    Some(begin_with(&export.tracer, request))
}

fn begin_with(tracer: &SdkTracer, request: &Request<'_>) -> Span {
    let method = METHODS.into_iter().find(|method| *method == request.method).unwrap_or("_OTHER");
    // Names of OpenTelemetry's conventions for HTTP servers.
    let attributes = vec![
        KeyValue::new("http.request.method", method),
        KeyValue::new("http.route", request.route.to_owned()),
        KeyValue::new("request_id", request.request_id.to_owned()),
    ];
    let name = if method == "_OTHER" { "HTTP" } else { method };
    let builder = tracer.span_builder(format!("{name} {}", request.route));
    let builder = builder.with_kind(SpanKind::Server).with_attributes(attributes);
    let parent = request.parent.as_ref().and_then(remote);
    let context = parent.map_or_else(Context::new, |parent| Context::new().with_remote_span_context(parent));
    Span(Box::new(tracer.build_with_context(builder, &context)))
}

fn remote(parent: &Parent<'_>) -> Option<SpanContext> {
    let (trace_id, span_id) = (TraceId::from_hex(parent.trace_id).ok()?, SpanId::from_hex(parent.span_id).ok()?);
    let flags = match parent.sampled {
        Sampled::Yes => TraceFlags::SAMPLED,
        Sampled::No => TraceFlags::NOT_SAMPLED,
    };
    Some(SpanContext::new(trace_id, span_id, flags, true, TraceState::NONE))
}

/// Exports from now on, to `v1/traces` below a collector's address. A second call changes nothing.
pub fn export(address: Address) -> Result<(), TracesError> {
    let address = address.at(["v1", "traces"]);
    let exporter = SpanExporter::builder()
        .with_http()
        .with_protocol(Protocol::HttpBinary)
        .with_endpoint(address.to_string())
        .with_timeout(TIMEOUT)
        .with_http_client(Sender::new(address)?)
        .build()
        .map_err(|error| TracesError::Exporter(error.to_string()))?;
    let version = KeyValue::new("service.version", env!("CARGO_PKG_VERSION"));
    let resource = Resource::builder().with_service_name("switchyard").with_attribute(version).build();
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource).build();
    let tracer = provider.tracer("switchyard");
    // An error means that traces are exported already.
    let _ = EXPORT.set(Export { provider, tracer });
    Ok(())
}

/// Exports what there is and ends the export.
pub fn flush(patience: Duration) {
    if let Some(export) = EXPORT.get()
        && let Err(error) = export.provider.shutdown_with_timeout(patience)
    {
        tracing::warn!(%error, "the last spans may not be exported");
    }
}

/// Calls the collector with the client of the rest of the house, which needs a runtime; the server's has ended when the last spans
/// are exported.
#[derive(Debug)]
struct Sender {
    caller: Caller,
    runtime: tokio::runtime::Runtime,
}

impl Sender {
    fn new(address: Address) -> Result<Self, TracesError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok(Self { caller: Caller::new(address, TIMEOUT)?, runtime })
    }
}

/// What the trait's method gives back, without the macro that it is written with.
type Sent<'a> = Pin<Box<dyn Future<Output = Result<Response<Bytes>, HttpError>> + Send + 'a>>;

impl HttpClient for Sender {
    fn send_bytes<'s, 'a>(&'s self, request: opentelemetry_http::Request<Bytes>) -> Sent<'a>
    where
        's: 'a,
        Self: 'a,
    {
        // Blocks, and may: only the thread that exports is here.
        Box::pin(std::future::ready(self.send(request)))
    }
}

impl Sender {
    fn send(&self, request: opentelemetry_http::Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let (head, body) = request.into_parts();
        let (status, body) = self.runtime.block_on(self.caller.post(head.headers, body, ANSWER_LIMIT))?;
        Ok(Response::builder().status(status).body(Bytes::from(body))?)
    }
}
