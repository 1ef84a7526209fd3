//! What a time phrase means: "tomorrow at half six", said at a time in a zone, as ISO 8601 and RFC 5545.
//!
//! A pure function of the phrase, now and the locale; British and American English, as people say it or as a recogniser of
//! speech writes it. What is not said is decided by the rules below, and whatever had to be decided or was not understood is
//! in [`Resolved::ambiguous`]: never guessed silently. A phrase that says nothing about time is `None`.
//!
//! Rules:
//! - A clock time without "am" or "pm" is the next one between 07:00 and midnight; on another day the first one from 07:00
//!   on ("tomorrow at six" is 18:00, "tomorrow at seven" 07:00). The other half of the day is reported. A leading zero
//!   ("07:45") and hours from 13 on are in 24 hours. "Half six" is 06:30 or 18:30.
//! - A part of the day without a clock time is: early hours 03:00, early morning 07:00, first thing and breakfast 08:00, morning
//!   09:00, late morning 11:00, noon 12:00, lunch 12:30, early afternoon 13:00, afternoon 15:00, late afternoon, tea and close of
//!   business 17:00, end of the day and early evening 18:00, evening and dinner 19:00, tonight 20:00, night 21:00, bedtime and
//!   late evening 22:00, middle of the night 02:00. One that has begun means now.
//! - "On friday" is the next friday after today; "next friday" the one of the next week, by the locale's first day of the week.
//! - "Midnight" is the one that ends the day.
//! - A day without a time is a date; a stretch ("this week", "in may") has its first day, not before today, and an end.
//! - A time that the clocks skip is moved forward by what they skip; of one that comes twice the first is meant. Both are reported.
//! - `by`, `before`, `after`, `from` do not move the time: they are in [`Resolved::bound`]. "Until friday" has only an end.

mod calendar;
mod days;
mod names;
mod phrase;
mod read;
mod read_clock;
mod read_day;
mod read_lapse;
mod read_repeat;
mod repeat;
mod said;
mod settle;
#[cfg(test)]
mod tests;
mod words;

use jiff::{Zoned, civil::Date};

pub use said::converted;

/// The most words of a phrase that are read; longer ones are not time phrases.
const MOST_WORDS: usize = 32;

/// Whose English it is: the order of day and month, the first day of the week, what "mother's day" means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Locale {
    /// 3/5 is 3 May; weeks begin on Monday.
    British,
    /// 3/5 is 5 March; weeks begin on Sunday.
    American,
}

impl Locale {
    /// From a BCP 47 name such as `en-GB` or `en-US`. `None` if it is not English.
    pub fn named(name: &str) -> Option<Locale> {
        let mut parts = name.split(['-', '_']);
        if !parts.next().is_some_and(|language| language.eq_ignore_ascii_case("en")) {
            return None;
        }
        let american = parts.any(|part| ["us", "ca", "ph", "pr"].iter().any(|region| part.eq_ignore_ascii_case(region)));
        Some(if american { Locale::American } else { Locale::British })
    }
}

/// Where and when a phrase was said.
#[derive(Clone, Debug)]
pub struct Context {
    /// The time at which it was said, in the speaker's zone.
    pub now: Zoned,
    /// The speaker's English.
    pub locale: Locale,
    /// What the time is for.
    pub purpose: Purpose,
}

/// What a time is for: says which half of the day is meant where that is not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// Anything.
    #[default]
    Any,
    /// Getting up: "wake me up at six" is in the morning.
    Waking,
}

impl Purpose {
    /// What the time of a task is for.
    pub fn of(task: &str) -> Self {
        let task = task.to_ascii_lowercase();
        let is_waking = task.split_whitespace().next().is_some_and(|verb| matches!(verb, "wake" | "waking" | "rouse"))
            || ["get me up", "get us up", "get up"].iter().any(|words| task == *words);
        if is_waking { Self::Waking } else { Self::Any }
    }
}

/// How exact an answer is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// A point in time.
    Time,
    /// A day.
    Day,
    /// A stretch of days: a weekend, a week, a month, a season, a year.
    Stretch,
}

/// What the time is to the thing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Bound {
    /// At it, on it, in it.
    #[default]
    At,
    /// At the latest then.
    By,
    /// Before it.
    Before,
    /// After it.
    After,
    /// From then on.
    From,
    /// Until then.
    Until,
    /// From `iso` to `end`.
    Between,
    /// About then.
    Around,
}

impl Bound {
    /// The word for it; "" for [`Bound::At`].
    pub fn word(self) -> &'static str {
        match self {
            Bound::At => "",
            Bound::By => "by",
            Bound::Before => "before",
            Bound::After => "after",
            Bound::From => "from",
            Bound::Until => "until",
            Bound::Between => "between",
            Bound::Around => "around",
        }
    }
}

/// What a time phrase means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// The time (`2026-03-29T06:00:00+02:00`) or the date (`2026-03-29`); of a recurrence its first. `None` if only an end was
    /// said, or nothing that has a date ("soon"): then `ambiguous` says so.
    pub iso: Option<String>,
    /// The last moment or day, for stretches and ranges.
    pub end: Option<String>,
    /// RFC 5545 RRULE without its name: `FREQ=WEEKLY;BYDAY=MO`. `iso` is its DTSTART.
    pub recurrence: Option<String>,
    /// Other readings, each `ISO: why`, and what was not understood or had to be assumed, in words.
    pub ambiguous: Vec<String>,
    /// How exact `iso` is.
    pub grain: Grain,
    /// What `iso` is to the thing: a deadline, a beginning.
    pub bound: Bound,
    start: Option<Point>,
    stop: Option<Point>,
    rule: Option<repeat::Rule>,
}

/// A time or a day.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Point {
    At(Zoned),
    On(Date),
}

impl Point {
    fn iso(&self) -> String {
        match self {
            Point::At(time) => time.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string(),
            Point::On(date) => date.to_string(),
        }
    }

    fn date(&self) -> Date {
        match self {
            Point::At(time) => time.date(),
            Point::On(date) => *date,
        }
    }
}

/// What the phrase means; `None` if it says nothing about time. Never fails, whatever the text.
pub fn resolve(text: &str, context: &Context) -> Option<Resolved> {
    let said = words::tokens(text);
    if said.len() > MOST_WORDS {
        return None;
    }
    let phrase = read::Reader { locale: context.locale, inner: false }.phrase(&said);
    phrase.says_something().then(|| settle::settle(&phrase, context))
}
