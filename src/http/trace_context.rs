//! W3C Trace Context: whose trace a request belongs to (the header `traceparent`, <https://www.w3.org/TR/trace-context/>).

use axum::http::{HeaderMap, HeaderName};

use super::middleware::random_hex;
use crate::telemetry::traces::{Parent, Sampled, Span};

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request's place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// The caller's span, 16 hexadecimal digits.
    pub parent_id: Option<String>,
    /// This request's span, 16 hexadecimal digits.
    pub span_id: String,
    /// Whether the caller records its trace.
    sampled: Sampled,
}

impl TraceContext {
    /// What the caller says; `None` where it says nothing or what it says is not well formed, as the standard asks.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?.to_str().ok()?;
        if values.next().is_some() {
            return None;
        }
        let (trace_id, parent_id, sampled) = parse(value)?;
        let span_id = random_hex().get(..16)?.to_owned();
        Some(Self { trace_id: trace_id.to_owned(), parent_id: Some(parent_id.to_owned()), span_id, sampled })
    }

    /// With the ids of the span that is exported, so that logs and traces can be brought together.
    pub fn exported(given: Option<Self>, span: &Span) -> Self {
        let (trace_id, span_id) = span.ids();
        let (parent_id, sampled) = given.map_or((None, Sampled::Yes), |given| (given.parent_id, given.sampled));
        Self { trace_id, parent_id, span_id, sampled }
    }

    /// The caller's span.
    pub fn parent(&self) -> Option<Parent<'_>> {
        let span_id = self.parent_id.as_deref()?;
        Some(Parent { trace_id: &self.trace_id, span_id, sampled: self.sampled })
    }
}

/// `00-TRACE-PARENT-FLAGS`. Later versions may have more fields at their end; version `ff` is forbidden. The last bit of
/// the flags says whether the caller records.
fn parse(value: &str) -> Option<(&str, &str, Sampled)> {
    let mut fields = value.split('-');
    let (version, trace_id, parent_id, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let nonzero = |text: &str| text.bytes().any(|byte| byte != b'0');
    let sound = hex(version, 2) && version != "ff" && (version != "00" || fields.next().is_none()) && hex(flags, 2);
    let sound = sound && hex(trace_id, 32) && nonzero(trace_id) && hex(parent_id, 16) && nonzero(parent_id);
    let flags = u8::from_str_radix(flags, 16).ok()?;
    sound.then_some((trace_id, parent_id, if flags & 1 == 1 { Sampled::Yes } else { Sampled::No }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_standard_allows_is_taken_over() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = "00f067aa0ba902b7";
        for (good, sampled) in
            [(format!("00-{trace}-{parent}-01"), Sampled::Yes), (format!("cc-{trace}-{parent}-02-what-comes-later"), Sampled::No)]
        {
            assert_eq!(parse(&good), Some((trace, parent, sampled)), "{good}");
        }
        for bad in [
            String::new(),
            format!("00-{trace}-{parent}"),
            format!("ff-{trace}-{parent}-01"),
            format!("00-{trace}-{parent}-01-more"),
            format!("00-{}-{parent}-01", "0".repeat(32)),
            format!("00-{trace}-{}-01", "0".repeat(16)),
            format!("00-{}-{parent}-01", trace.to_uppercase()),
            format!("00-{trace}-{parent}-1"),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }
}
