//! The hours in which a rollout may go forward. Pure: the time is passed in.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use jiff::civil::{Date, Time, Weekday};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// Weekdays as they are written, Monday first.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// Days that are looked at for the next open hour: two weeks, as a short window may be in the hour that a change of clocks leaves
/// out, and two days for those that a zone leaves out.
const AHEAD: i64 = 16;

/// From one time of day to another, on some days, in a time zone. A window over midnight (`22:00-06:00`) counts by the day of the
/// moment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hours {
    /// Minutes since midnight.
    from: i16,
    /// Minutes since midnight; not included.
    to: i16,
    /// Monday is bit 0.
    days: u8,
    zone: TimeZone,
    /// As the zone is written.
    name: String,
}

/// Why hours cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}; '09:00-17:00 Europe/Berlin' and 'mon-fri 09:00-17:00 Europe/Berlin' are right")]
pub struct NoHours(String);

impl Hours {
    /// Whether a rollout may go forward at this time, seconds since 1970.
    pub fn open(&self, now: i64) -> bool {
        let Ok(now) = Timestamp::from_second(now) else { return true };
        let local = now.to_zoned(self.zone.clone());
        let minute = i16::from(local.hour()) * 60 + i16::from(local.minute());
        let within =
            if self.from < self.to { (self.from..self.to).contains(&minute) } else { minute >= self.from || minute < self.to };
        within && self.has(local.weekday())
    }

    /// The first open second from this time on.
    pub fn next_open(&self, now: i64) -> i64 {
        if self.open(now) {
            return now;
        }
        let Ok(timestamp) = Timestamp::from_second(now) else { return now };
        let today = timestamp.to_zoned(self.zone.clone()).date();
        let starts = (0..AHEAD).flat_map(|day| [self.start(today, day, 0), self.start(today, day, self.from)]);
        let next = starts.flatten().filter(|start| *start >= now && self.open(*start)).min();
        next.unwrap_or(now.saturating_add(3_600))
    }

    fn start(&self, today: Date, days: i64, minute: i16) -> Option<i64> {
        let date = today.checked_add(jiff::Span::new().try_days(days).ok()?).ok()?;
        let time = Time::new(i8::try_from(minute / 60).ok()?, i8::try_from(minute % 60).ok()?, 0, 0).ok()?;
        Some(date.to_datetime(time).to_zoned(self.zone.clone()).ok()?.timestamp().as_second())
    }

    fn has(&self, day: Weekday) -> bool {
        self.days & (1 << day.to_monday_zero_offset()) != 0
    }
}

impl FromStr for Hours {
    type Err = NoHours;

    fn from_str(text: &str) -> Result<Self, NoHours> {
        let mut words: Vec<&str> = text.split_whitespace().collect();
        let days = match words.as_slice() {
            [days, _, _] => {
                let days = parse_days(days)?;
                words.remove(0);
                days
            }
            _ => 0b111_1111,
        };
        let [hours, name] = words.as_slice() else {
            let shown: String = text.chars().take(64).collect();
            return Err(NoHours(format!("{shown:?} is not hours and a time zone")));
        };
        let (from, to) =
            hours.split_once('-').ok_or_else(|| NoHours(format!("{hours:?} is not two times with '-' between them")))?;
        let (from, to) = (minute(from)?, minute(to)?);
        if from == to {
            return Err(NoHours("it begins when it ends".to_owned()));
        }
        let zone = TimeZone::get(name).map_err(|_| NoHours(format!("{name:?} is not a time zone's IANA name")))?;
        Ok(Self { from, to, days, zone, name: (*name).to_owned() })
    }
}

fn minute(text: &str) -> Result<i16, NoHours> {
    let wrong = || NoHours(format!("{text:?} is not a time of day"));
    let (hour, minute) = text.split_once(':').ok_or_else(wrong)?;
    let two = |text: &str| if text.len() == 2 { text.parse::<i16>().ok().filter(|number| *number >= 0) } else { None };
    match (two(hour), two(minute)) {
        // 24:00 ends a day.
        (Some(24), Some(0)) => Ok(0),
        (Some(hour @ 0..24), Some(minute @ 0..60)) => Ok(hour * 60 + minute),
        _ => Err(wrong()),
    }
}

fn parse_days(text: &str) -> Result<u8, NoHours> {
    let day = |name: &str| {
        DAYS.iter().position(|day| *day == name).ok_or_else(|| NoHours(format!("{name:?} is not one of {}", DAYS.join(", "))))
    };
    let mut days = 0;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        let mut at = first;
        loop {
            days |= 1 << at;
            if at == last {
                break;
            }
            at = (at + 1) % 7;
        }
    }
    Ok(days)
}

impl fmt::Display for Hours {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.days != 0b111_1111 {
            let days: Vec<&str> = (0..7).filter(|day| self.days & (1 << day) != 0).map(|day| DAYS[day]).collect();
            write!(f, "{} ", days.join(","))?;
        }
        let time = |minute: i16| format!("{:02}:{:02}", minute / 60, minute % 60);
        write!(f, "{}-{} {}", time(self.from), time(self.to), self.name)
    }
}

impl TryFrom<String> for Hours {
    type Error = NoHours;

    fn try_from(text: String) -> Result<Self, NoHours> {
        text.parse()
    }
}

impl From<Hours> for String {
    fn from(hours: Hours) -> Self {
        hours.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    fn at(text: &str) -> i64 {
        text.parse::<Timestamp>().unwrap().as_second()
    }

    #[test]
    fn hours_are_those_of_the_zone_also_when_clocks_change() {
        let hours: Hours = "mon-fri 09:00-17:00 Europe/Berlin".parse().unwrap();
        // Friday in winter: 08:00 UTC is nine there.
        assert!(!hours.open(at("2026-03-27T07:59:59Z")) && hours.open(at("2026-03-27T08:00:00Z")));
        assert!(!hours.open(at("2026-03-27T16:00:00Z")));
        // The next Monday is in summer.
        assert_eq!(hours.next_open(at("2026-03-27T16:00:00Z")), at("2026-03-30T07:00:00Z"));
        assert_eq!(hours.next_open(at("2026-03-30T07:30:00Z")), at("2026-03-30T07:30:00Z"));
        let night: Hours = "22:00-06:00 America/New_York".parse().unwrap();
        assert!(night.open(at("2026-01-10T04:00:00Z")) && !night.open(at("2026-01-10T11:00:00Z")));
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (text, part) in [
            ("", "is not hours and a time zone"),
            ("09:00-17:00", "is not hours and a time zone"),
            ("9-17 UTC", "\"9\" is not a time of day"),
            ("09:00-25:00 UTC", "\"25:00\""),
            ("09:00-09:00 UTC", "begins when it ends"),
            ("09:00-17:00 Mars/Olympus", "\"Mars/Olympus\""),
            ("mon-xyz 09:00-17:00 UTC", "\"xyz\""),
        ] {
            let error = text.parse::<Hours>().unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("are right"), "{text}: {error}");
        }
        assert_eq!(
            "sat-mon 00:00-24:00 UTC".parse::<Hours>().unwrap_err().to_string().split(';').next().unwrap(),
            "it begins when it ends"
        );
    }

    proptest! {
        #[test]
        fn the_next_open_second_is_open_and_none_before_it_is(
            now in 1_700_000_000i64..1_800_000_000, from in 0i16..1440, to in 0i16..1440, days in 1u8..128,
            zone in prop::sample::select(vec!["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Australia/Lord_Howe"]),
        ) {
            prop_assume!(from != to);
            let hours = Hours { from, to, days, zone: TimeZone::get(zone).unwrap(), name: zone.to_owned() };
            let next = hours.next_open(now);
            prop_assert!(next >= now && hours.open(next), "{hours} {now} {next}");
            let mut before = now;
            // A step of 7 minutes finds every longer window; shorter ones are not looked for here.
            while before < next && (i32::from(to) - i32::from(from)).rem_euclid(1440) > 7 {
                prop_assert!(!hours.open(before), "{hours} {now} {before} {next}");
                before += 420;
            }
            prop_assert_eq!(hours.to_string().parse::<Hours>().unwrap(), hours);
        }
    }
}
