//! W3C Trace Context: whose trace a request belongs to (the header `traceparent`, <https://www.w3.org/TR/trace-context/>).

use axum::http::{HeaderMap, HeaderName};

use super::middleware::random_hex;

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// A request's place in a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// 32 hexadecimal digits.
    pub trace_id: String,
    /// The caller's span, 16 hexadecimal digits.
    pub parent_id: String,
    /// This request's span, 16 hexadecimal digits.
    pub span_id: String,
}

impl TraceContext {
    /// What the caller says; `None` where it says nothing or what it says is not well formed, as the standard asks.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let mut values = headers.get_all(TRACEPARENT).iter();
        let value = values.next()?.to_str().ok()?;
        if values.next().is_some() {
            return None;
        }
        let (trace_id, parent_id) = parse(value)?;
        let span_id = random_hex().get(..16)?.to_owned();
        Some(Self { trace_id: trace_id.to_owned(), parent_id: parent_id.to_owned(), span_id })
    }
}

/// `00-TRACE-PARENT-FLAGS`. Later versions may have more fields at their end; version `ff` is forbidden.
fn parse(value: &str) -> Option<(&str, &str)> {
    let mut fields = value.split('-');
    let (version, trace_id, parent_id, flags) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
    let hex = |text: &str, digits: usize| {
        text.len() == digits && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
    };
    let nonzero = |text: &str| text.bytes().any(|byte| byte != b'0');
    let sound = hex(version, 2) && version != "ff" && (version != "00" || fields.next().is_none()) && hex(flags, 2);
    (sound && hex(trace_id, 32) && nonzero(trace_id) && hex(parent_id, 16) && nonzero(parent_id)).then_some((trace_id, parent_id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_standard_allows_is_taken_over() {
        let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
        let parent = "00f067aa0ba902b7";
        for good in [format!("00-{trace}-{parent}-01"), format!("cc-{trace}-{parent}-00-what-comes-later")] {
            assert_eq!(parse(&good), Some((trace, parent)), "{good}");
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
