//! Limits and budgets as clients see them: OpenAI's headers and errors.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use super::error::ApiError;
use crate::tenants::{Gauge, Measure, OverBudget, OverLimit, Rate, Refusal, Subject};

const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");

/// Writes what is left of the caller's limits.
pub fn write(headers: &mut HeaderMap, rate: Rate) {
    const REQUESTS: [HeaderName; 3] = [
        HeaderName::from_static("x-ratelimit-limit-requests"),
        HeaderName::from_static("x-ratelimit-remaining-requests"),
        HeaderName::from_static("x-ratelimit-reset-requests"),
    ];
    const TOKENS: [HeaderName; 3] = [
        HeaderName::from_static("x-ratelimit-limit-tokens"),
        HeaderName::from_static("x-ratelimit-remaining-tokens"),
        HeaderName::from_static("x-ratelimit-reset-tokens"),
    ];
    for (gauge, [limit, remaining, reset]) in [(rate.requests, REQUESTS), (rate.tokens, TOKENS)] {
        let Some(gauge) = gauge else { continue };
        headers.insert(limit, HeaderValue::from(gauge.limit));
        headers.insert(remaining, HeaderValue::from(gauge.remaining));
        if let Ok(value) = HeaderValue::try_from(spelled(gauge.reset)) {
            headers.insert(reset, value);
        }
    }
}

/// 429, in OpenAI's words.
pub fn refusal(refusal: &Refusal) -> ApiError {
    match refusal {
        Refusal::Limit(over) => over_limit(over),
        Refusal::Budget(over) => over_budget(over),
    }
}

fn over_limit(over: &OverLimit) -> ApiError {
    let (kind, what) = match over.measure {
        Measure::Requests => ("requests", "requests per minute"),
        Measure::Tokens => ("tokens", "tokens per minute"),
        Measure::Concurrency => ("requests", "requests at a time"),
    };
    let of = match over.model.as_str() {
        "*" => String::new(),
        model => format!(" for the model '{model}'"),
    };
    let OverLimit { limit, used, asked, .. } = over;
    let whose = whose(&over.subject);
    let Some(wait) = over.retry_after else {
        let message = format!(
            "Request too large: {whose} has a limit of {limit} {what}{of}, and this request needs up to {asked}. Shorten the prompt \
             or lower 'max_tokens'."
        );
        return never(ApiError::new(StatusCode::TOO_MANY_REQUESTS, kind, Some("request_exceeds_limit"), message));
    };
    let message = format!(
        "Rate limit reached: {whose} has a limit of {limit} {what}{of}; {used} are used, this request needs up to {asked}. Please \
         try again in {}.",
        spelled(wait)
    );
    let mut error = ApiError::new(StatusCode::TOO_MANY_REQUESTS, kind, Some("rate_limit_exceeded"), message);
    // Rounded up: whoever waits as long as is said gets in, if nobody else was faster.
    let ms = u64::try_from(wait.as_micros().div_ceil(1_000)).unwrap_or(u64::MAX);
    error.retry_after = Some(u32::try_from(ms.div_ceil(1_000).max(1)).unwrap_or(u32::MAX));
    error.headers.push((RETRY_AFTER_MS, HeaderValue::from(ms)));
    let gauge = Gauge { limit: *limit, remaining: limit.saturating_sub(*used), reset: wait };
    let rate = match over.measure {
        Measure::Requests => Rate { requests: Some(Gauge { remaining: 0, ..gauge }), tokens: None },
        Measure::Tokens => Rate { requests: None, tokens: Some(gauge) },
        Measure::Concurrency => Rate::default(),
    };
    let mut headers = HeaderMap::new();
    write(&mut headers, rate);
    error.headers.extend(headers.into_iter().filter_map(|(name, value)| Some((name?, value))));
    error
}

fn over_budget(over: &OverBudget) -> ApiError {
    let message = format!(
        "You exceeded your current quota: {} has a budget of {} USD ({}); {} USD are spent or promised, and this request could cost \
         {} USD.",
        whose(&over.subject),
        usd(over.limit),
        match over.period {
            crate::tenants::Period::Day => "each day",
            crate::tenants::Period::Month => "each month",
            crate::tenants::Period::Total => "in total",
        },
        usd(over.used),
        usd(over.asked)
    );
    never(ApiError::new(StatusCode::TOO_MANY_REQUESTS, "insufficient_quota", Some("insufficient_quota"), message))
}

/// Trying again is of no use.
fn never(mut error: ApiError) -> ApiError {
    error.headers.push((SHOULD_RETRY, HeaderValue::from_static("false")));
    error
}

/// Nobody learns another one's id.
const fn whose(subject: &Subject) -> &'static str {
    match subject {
        Subject::Organization => "this server",
        Subject::Project(_) => "your project",
        Subject::Key(_) => "your API key",
    }
}

/// Nano-dollars as dollars, with all nine digits.
pub fn usd(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    format!("{sign}{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)
}

/// A duration as OpenAI spells it: `6m0s`, `1.5s`, `20ms`.
fn spelled(duration: Duration) -> String {
    let ms = duration.as_millis();
    let seconds = |ms: u128| {
        if ms.is_multiple_of(1_000) { format!("{}s", ms / 1_000) } else { format!("{}.{:03}s", ms / 1_000, ms % 1_000) }
    };
    match ms {
        0..1_000 => format!("{ms}ms"),
        1_000..60_000 => seconds(ms),
        _ => format!("{}m{}", ms / 60_000, seconds(ms % 60_000)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn durations_and_money_are_spelled_as_clients_read_them() {
        let of = |ms| spelled(Duration::from_millis(ms));
        assert_eq!(
            [of(0), of(20), of(1_000), of(1_500), of(360_000), of(61_250)],
            ["0ms", "20ms", "1s", "1.500s", "6m0s", "1m1.250s"]
        );
        assert_eq!(
            [usd(0), usd(1), usd(12_345_678_901), usd(-5)],
            ["0.000000000", "0.000000001", "12.345678901", "-0.000000005"]
        );
    }

    #[test]
    fn a_refusal_says_when_to_come_back_or_that_it_is_no_use() {
        let over = |retry_after| {
            Refusal::Limit(OverLimit {
                subject: Subject::Key("key_secret".into()),
                model: "*".into(),
                measure: Measure::Tokens,
                limit: 100,
                used: 90,
                asked: 20,
                retry_after,
            })
        };
        let header = |error: &ApiError, name: &str| {
            error.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.to_str().unwrap().to_owned())
        };
        let error = refusal(&over(Some(Duration::from_micros(6_000_001))));
        assert_eq!(
            (error.status, error.kind, error.code),
            (StatusCode::TOO_MANY_REQUESTS, "tokens", Some("rate_limit_exceeded"))
        );
        assert_eq!((error.retry_after, header(&error, "retry-after-ms").as_deref()), (Some(7), Some("6001")));
        assert_eq!(header(&error, "x-ratelimit-remaining-tokens").as_deref(), Some("10"));
        assert!(!error.message.contains("key_secret"), "{}", error.message);
        let error = refusal(&over(None));
        assert_eq!((error.code, header(&error, "x-should-retry").as_deref()), (Some("request_exceeds_limit"), Some("false")));
        assert_eq!(error.retry_after, None);
    }
}
