//! What a time phrase says, before it meets a clock and a calendar: plain data between the readers and `settle`.

use jiff::civil::Weekday;

use super::Bound;

/// Everything that was understood of a phrase, and what was not.
#[derive(Clone, Debug, Default)]
pub(super) struct Phrase {
    pub clocks: Vec<Clock>,
    pub part: Option<Part>,
    pub day: Option<Day>,
    pub weekdays: Vec<Weekday>,
    pub which: Which,
    /// "in twenty minutes": from now.
    pub lapse: Option<Lapse>,
    /// "two hours after", "the day before": from what the rest of the phrase names.
    pub shift: Lapse,
    pub repeat: Option<Repeat>,
    pub bound: Bound,
    /// "until friday", "between two and four": where it ends.
    pub end: Option<Box<Phrase>>,
    /// The clock time is a number and nothing else.
    pub bare: bool,
    /// "early", "late" by itself.
    pub early: Option<bool>,
    /// "now", "right away"
    pub now: bool,
    /// "soon", "later": a time is meant and none is said.
    pub vague: Vec<String>,
    pub unknown: Vec<String>,
    pub notes: Vec<String>,
}

impl Phrase {
    /// Whether a point in time, a stretch or a rule was named.
    pub(super) fn says_something(&self) -> bool {
        self.says_when() || self.end.is_some() || !self.vague.is_empty()
    }

    pub(super) fn says_when(&self) -> bool {
        self.has_day() || self.has_time() || self.lapse.is_some() || self.repeat.is_some() || self.now
    }

    pub(super) fn has_day(&self) -> bool {
        self.day.is_some() || !self.weekdays.is_empty()
    }

    pub(super) fn has_time(&self) -> bool {
        self.part.is_some() || !self.clocks.is_empty()
    }

    pub(super) fn note(&mut self, text: impl Into<String>) {
        let text = text.into();
        if !self.notes.contains(&text) {
            self.notes.push(text);
        }
    }
}

/// A time of the clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// 0 to 24
    pub hour: u32,
    pub minute: u32,
    pub half: Half,
    /// "midnight": the one at the end of the day that is named.
    pub midnight: bool,
}

/// Which half of the day a clock time is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Half {
    /// Said, or in 24 hours.
    Known,
    /// Not said: hours 1 to 12.
    Either,
}

/// A part of the day, in minutes after midnight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub name: &'static str,
    /// A clock time said with it lies in `from..=to` ("three in the afternoon"); more than 1440 is the night after.
    pub from: i32,
    pub to: i32,
    /// What it means when no clock time is said.
    pub usual: i32,
}

/// The parts of the day and their hours. The module's text has them as a table.
pub(super) const PARTS: [Part; 17] = [
    part("early hours", (0, 0), (6, 0), (3, 0)),
    part("early morning", (0, 0), (11, 59), (7, 0)),
    part("first thing", (0, 0), (11, 59), (8, 0)),
    part("breakfast", (5, 0), (11, 59), (8, 0)),
    part("morning", (0, 0), (11, 59), (9, 0)),
    part("late morning", (9, 0), (12, 30), (11, 0)),
    part("lunch", (11, 0), (15, 0), (12, 30)),
    part("early afternoon", (12, 0), (16, 0), (13, 0)),
    part("afternoon", (12, 0), (19, 0), (15, 0)),
    part("late afternoon", (14, 0), (19, 0), (17, 0)),
    part("tea", (14, 0), (20, 0), (17, 0)),
    part("end of the day", (15, 0), (24, 0), (18, 0)),
    part("early evening", (16, 0), (21, 0), (18, 0)),
    part("evening", (16, 0), (24, 30), (19, 0)),
    part("dinner", (16, 0), (23, 0), (19, 0)),
    part("night", (18, 0), (28, 59), (21, 0)),
    part("bedtime", (18, 0), (26, 0), (22, 0)),
];

const fn part(name: &'static str, from: (i32, i32), to: (i32, i32), usual: (i32, i32)) -> Part {
    Part { name, from: from.0 * 60 + from.1, to: to.0 * 60 + to.1, usual: usual.0 * 60 + usual.1 }
}

impl Part {
    pub(super) fn named(name: &str) -> Option<Part> {
        PARTS.into_iter().find(|part| part.name == name)
    }
}

/// The evening and the night of today.
pub(super) const TONIGHT: Part = part("tonight", (17, 0), (28, 59), (20, 0));
/// "late tonight", "late in the evening", "last thing".
pub(super) const LATE: Part = part("late evening", (18, 0), (28, 59), (22, 0));
/// "in the middle of the night": of the night that begins on the day that is named.
pub(super) const DEEP: Part = part("middle of the night", (24, 0), (30, 0), (26, 0));
/// "close of business".
pub(super) const CLOSE: Part = part("close of business", (12, 0), (20, 0), (17, 0));

/// Which of several days or weeks of the same name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Which {
    #[default]
    Plain,
    This,
    /// "this coming friday"
    Coming,
    Next,
    Last,
}

/// A day, or a stretch of days.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Day {
    /// From today: "tomorrow" is 1.
    Offset(i64),
    /// "the 3rd of may"; `other` if day and month may have been meant the other way round.
    Date {
        year: Option<i16>,
        month: i8,
        day: i8,
        swaps: bool,
    },
    /// "the twelfth"
    OfMonth(i8),
    /// "the first monday of next month", "the last day of june" (no weekday); -1 is the last.
    Nth {
        n: i8,
        weekday: Option<Weekday>,
        of: Period,
    },
    Stretch(Period, Edge),
    /// Weeks from this one, and whether "next" was said.
    Weekend(i64),
    Holiday(Holiday),
    /// "in three days", "two weeks from now"
    In(Lapse),
    /// "the week of the 14th"
    WeekOf(i8),
}

/// A stretch of the calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Period {
    /// 0 is this one.
    Week(i64),
    Month(i64),
    Quarter(i64),
    Year(i64),
    InYear(i16),
    /// "in may", "next june", "in may 2027"
    Named {
        month: i8,
        which: Which,
        year: Option<i16>,
    },
    /// By its first month, on the northern half of the world.
    Season {
        month: i8,
        which: Which,
    },
}

/// Which piece of a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edge {
    Whole,
    Start,
    Middle,
    End,
    /// The first, middle and last third: "early june", "mid august", "late november".
    Early,
    Mid,
    Late,
    /// "the first week of june"; -1 is the last.
    WeekNumber(i8),
}

/// Days with names. `movable` ones are worked out for each year.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holiday {
    Fixed(i8, i8),
    /// The nth weekday of a month; -1 is the last.
    Nth(i8, Weekday, i8),
    /// Days after Easter Sunday.
    Easter(i64),
    /// Mothering Sunday in Britain, the second Sunday of May in America.
    MothersDay,
}

/// A length of time. Months and days are the calendar's; seconds pass by themselves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Lapse {
    pub months: i64,
    pub days: i64,
    pub seconds: i64,
}

impl Lapse {
    pub(super) fn is_zero(self) -> bool {
        self == Lapse::default()
    }

    pub(super) fn is_calendar(self) -> bool {
        self.seconds == 0
    }

    /// `None` for lengths no calendar has.
    pub(super) fn plus(self, other: Lapse) -> Option<Lapse> {
        Some(Lapse {
            months: self.months.checked_add(other.months)?,
            days: self.days.checked_add(other.days)?,
            seconds: self.seconds.checked_add(other.seconds)?,
        })
    }

    pub(super) fn backwards(self) -> Lapse {
        Lapse { months: -self.months, days: -self.days, seconds: -self.seconds }
    }
}

/// How often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Repeat {
    pub every: Every,
    pub interval: u32,
    /// "the first monday of every month"
    pub nth: Option<(i8, Weekday)>,
    /// "the 15th of every month"; -1 is the last day.
    pub month_day: Option<i8>,
    pub month: Option<i8>,
    /// More than once in that time: "twice a week".
    pub times: u32,
    /// "every hour on the hour"
    pub on_the_hour: bool,
}

impl Repeat {
    pub(super) fn new(every: Every, interval: u32) -> Repeat {
        Repeat { every, interval, nth: None, month_day: None, month: None, times: 1, on_the_hour: false }
    }
}

/// The unit of a recurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Every {
    Minute,
    Hour,
    Day,
    Week,
    Month,
    Year,
}
