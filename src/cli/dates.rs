//! Times as they are typed and shown: days in UTC, or seconds since 1970.

use time::{Date, Month, OffsetDateTime};

/// `2026-11-21`, or seconds since 1970.
pub(super) fn parse(text: &str) -> Result<i64, String> {
    if let Ok(seconds) = text.parse::<i64>() {
        return Ok(seconds);
    }
    let wrong = || format!("{text:?}: a day like 2026-11-21 (UTC) or seconds since 1970 are right");
    let mut parts = text.split('-').map(str::parse::<u16>);
    let (Some(Ok(year)), Some(Ok(month)), Some(Ok(day)), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    let month = u8::try_from(month).ok().and_then(|month| Month::try_from(month).ok());
    let date = month.zip(u8::try_from(day).ok()).and_then(|(month, day)| Date::from_calendar_date(year.into(), month, day).ok());
    date.map(|date| date.midnight().assume_utc().unix_timestamp()).ok_or_else(wrong)
}

/// The day of a time, UTC.
pub(super) fn day(seconds: i64) -> String {
    let date = OffsetDateTime::from_unix_timestamp(seconds).unwrap_or(OffsetDateTime::UNIX_EPOCH).date();
    format!("{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
}

/// Day and hour of a time, UTC.
pub(super) fn hour(seconds: i64) -> String {
    format!("{} {:02}:00", day(seconds), seconds.div_euclid(3_600).rem_euclid(24))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn days_are_read_and_written_alike() {
        assert_eq!(parse("2026-11-21").unwrap(), 1_795_219_200);
        assert_eq!(
            (day(1_795_219_200), hour(1_795_219_200 + 3_600 * 5 + 9)),
            ("2026-11-21".to_owned(), "2026-11-21 05:00".to_owned())
        );
        assert_eq!(parse("1795219205").unwrap(), 1_795_219_205);
        for wrong in ["", "2026", "2026-13-01", "2026-02-30", "2026-1-1-1", "x", "2026-11-21T00:00"] {
            assert!(wrong == "2026" || parse(wrong).is_err(), "{wrong}");
        }
    }
}
