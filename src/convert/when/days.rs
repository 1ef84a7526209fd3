//! Which day a phrase names, seen from today, and which others it may mean.
//!
//! Knows the calendar and no clocks.

use jiff::civil::{Date, Weekday};

use super::{
    Grain, Locale, calendar,
    names::MONTHS,
    phrase::{Day, Edge, Lapse, Period, Phrase, Which},
};

/// The day, or the first and last of a stretch.
#[derive(Clone, Debug)]
pub(super) struct Days {
    pub start: Date,
    pub end: Option<Date>,
    pub grain: Grain,
    /// Other days that may be meant, and why.
    pub others: Vec<(Date, String)>,
    /// What had to be assumed.
    pub notes: Vec<String>,
    /// If its time is over today, the next one is meant: "on the 12th", "christmas".
    pub rolls: bool,
}

impl Days {
    fn one(start: Date) -> Days {
        Days { start, end: None, grain: Grain::Day, others: Vec::new(), notes: Vec::new(), rolls: false }
    }

    fn rolling(start: Date) -> Days {
        Days { rolls: true, ..Days::one(start) }
    }

    fn or(mut self, other: Date, why: impl Into<String>) -> Days {
        if other != self.start {
            self.others.push((other, why.into()));
        }
        self
    }
}

/// The day that a phrase names. The error says why there is none, in words.
pub(super) fn days(phrase: &Phrase, today: Date, locale: Locale) -> Result<Days, String> {
    let found = match (&phrase.day, phrase.weekdays.as_slice()) {
        (None, []) => return Ok(Days::one(today)),
        (None, weekdays) => by_name(weekdays, phrase.which, today, locale),
        (Some(Day::Stretch(period @ Period::Week(_), Edge::Whole)), [weekday, ..]) => {
            calendar::period(*period, today, locale).and_then(|(start, _)| calendar::in_week(start, *weekday)).map(Days::one)
        }
        (Some(Day::In(lapse)), [weekday, ..]) => calendar::plus(today, *lapse)
            .and_then(|day| calendar::week_start(day, locale))
            .and_then(|start| calendar::in_week(start, *weekday))
            .map(Days::one),
        (Some(Day::OfMonth(day)), [weekday, ..]) => on_weekday(*day, *weekday, today),
        (Some(day), weekdays) => {
            let mut found = one_day(day, today, locale)?;
            if let Some(found) = &mut found
                && found.grain == Grain::Day
                && let Some(weekday) = weekdays.first()
                && found.start.weekday() != *weekday
            {
                found.notes.push(format!("{} is a {}, not a {}", found.start, name(found.start.weekday()), name(*weekday)));
            }
            found
        }
    };
    let shift = Lapse { seconds: 0, ..phrase.shift };
    let moved = |date: Date| calendar::plus(date, shift);
    let outside = || "no such day in the calendar".to_owned();
    let mut found = found.ok_or_else(outside)?;
    if !shift.is_zero() {
        found.start = moved(found.start).ok_or_else(outside)?;
        found.end = found.end.and_then(moved);
        found.others = found.others.into_iter().filter_map(|(date, why)| Some((moved(date)?, why))).collect();
    }
    Ok(found)
}

pub(super) fn name(weekday: Weekday) -> &'static str {
    match weekday {
        Weekday::Monday => "monday",
        Weekday::Tuesday => "tuesday",
        Weekday::Wednesday => "wednesday",
        Weekday::Thursday => "thursday",
        Weekday::Friday => "friday",
        Weekday::Saturday => "saturday",
        Weekday::Sunday => "sunday",
    }
}

fn by_name(weekdays: &[Weekday], which: Which, today: Date, locale: Locale) -> Option<Days> {
    let mut found: Vec<Days> = weekdays.iter().filter_map(|day| weekday(*day, which, today, locale)).collect();
    found.sort_by_key(|days| days.start);
    let mut all = found.into_iter();
    let mut first = all.next()?;
    for also in all {
        first.others.push((also.start, "also said".to_owned()));
    }
    Some(first)
}

fn weekday(weekday: Weekday, which: Which, today: Date, locale: Locale) -> Option<Days> {
    let coming = calendar::next_weekday(today, weekday)?;
    let is_today = today.weekday() == weekday;
    Some(match which {
        Which::Plain if is_today => Days::one(coming).or(today, format!("today is a {}", name(weekday))),
        Which::This if is_today => Days::one(today).or(coming, format!("the {} after this one", name(weekday))),
        Which::Plain | Which::This | Which::Coming => Days::one(coming),
        Which::Next => {
            let start = calendar::plus_days(calendar::week_start(today, locale)?, 7)?;
            Days::one(calendar::in_week(start, weekday)?).or(coming, format!("the coming {}", name(weekday)))
        }
        Which::Last => Days::one(calendar::plus_days(coming, if is_today { -14 } else { -7 })?),
    })
}

/// "friday the 13th": the next one that is both.
fn on_weekday(day: i8, weekday: Weekday, today: Date) -> Option<Days> {
    let first = calendar::next_day_of_month(today, day)?;
    let mut date = first;
    // the calendar repeats after 28 years within a century; no pair of day and weekday takes more than a few
    for _ in 0..400 {
        if date.weekday() == weekday {
            let found = Days::rolling(date);
            return Some(found.or(first, format!("the next {day}. is a {}", name(first.weekday()))));
        }
        date = calendar::next_day_of_month(calendar::plus_days(date, 1)?, day)?;
    }
    None
}

fn one_day(day: &Day, today: Date, locale: Locale) -> Result<Option<Days>, String> {
    let no_date = |year: Option<i16>, month: i8, day: i8| {
        let month = MONTHS.get((month - 1).max(0) as usize).copied().unwrap_or("such month");
        let year = year.map(|year| format!(" {year}")).unwrap_or_default();
        format!("there is no {day} {month}{year}")
    };
    Ok(match day {
        Day::Offset(days) => calendar::plus_days(today, *days).map(Days::one),
        Day::In(lapse) => calendar::plus(today, *lapse).map(Days::one),
        Day::Date { year, month, day, swaps } => {
            let on = |month: i8, day: i8| match year {
                Some(year) => Date::new(*year, month, day).ok(),
                None => calendar::next_date(today, month, day),
            };
            let date = on(*month, *day).ok_or_else(|| no_date(*year, *month, *day))?;
            let mut found = Days { rolls: year.is_none(), ..Days::one(date) };
            if *swaps && let Some(other) = on(*day, *month) {
                found = found.or(other, "month and day the other way round");
            }
            Some(found)
        }
        Day::OfMonth(day) => {
            let date = calendar::next_day_of_month(today, *day).ok_or_else(|| format!("no month has a day {day}"))?;
            Some(Days::rolling(date))
        }
        Day::WeekOf(day) => calendar::next_day_of_month(today, *day).and_then(|date| {
            let start = calendar::week_start(date, locale)?;
            stretch(start, calendar::plus_days(start, 6)?, today)
        }),
        Day::Weekend(weeks) => weekend(*weeks, today),
        Day::Holiday(holiday) => calendar::next_holiday(*holiday, today, locale).map(Days::rolling),
        Day::Nth { n, weekday, of } => nth(*n, *weekday, *of, today, locale).map(Days::rolling),
        Day::Stretch(period, edge) => piece(*period, *edge, today, locale),
    })
}

/// A stretch that has begun starts today.
fn stretch(start: Date, end: Date, today: Date) -> Option<Days> {
    let begun = start < today && end >= today;
    Some(Days { end: Some(end), grain: Grain::Stretch, ..Days::one(if begun { today } else { start }) })
}

fn weekend(weeks: i64, today: Date) -> Option<Days> {
    let monday = calendar::week_start(today, Locale::British)?;
    let this = calendar::plus_days(monday, 5)?;
    let saturday = calendar::plus_days(this, weeks.checked_mul(7)?)?;
    let found = stretch(saturday, calendar::plus_days(saturday, 1)?, today)?;
    Some(if weeks == 1 && this > today { found.or(this, "the coming weekend") } else { found })
}

fn nth(n: i8, weekday: Option<Weekday>, of: Period, today: Date, locale: Locale) -> Option<Date> {
    let mut from = today;
    for _ in 0..3 {
        let (start, end) = calendar::period(of, from, locale)?;
        let date = match (weekday, n) {
            (Some(weekday), _) if start.month() == end.month() => calendar::nth_in_month(start, n, weekday),
            (Some(weekday), -1) => calendar::plus_days(end, 1)?.nth_weekday(-1, weekday).ok(),
            (Some(weekday), _) => calendar::plus_days(start, -1)?.nth_weekday(i32::from(n), weekday).ok(),
            (None, -1) => Some(end),
            (None, n) => calendar::plus_days(start, i64::from(n) - 1),
        }
        .filter(|date| *date <= end);
        match date {
            Some(date) if date >= today => return Some(date),
            _ => from = calendar::plus_days(end, 1)?,
        }
    }
    None
}

fn piece(period: Period, edge: Edge, today: Date, locale: Locale) -> Option<Days> {
    let (mut period, mut over) = (period, false);
    loop {
        let whole = calendar::period(period, today, locale)?;
        let (start, end) = match (period, edge) {
            (Period::Week(_), Edge::Middle) => {
                let day = calendar::in_week(whole.0, Weekday::Wednesday)?;
                (day, day)
            }
            (Period::Week(_), Edge::End) => {
                let friday = calendar::in_week(whole.0, Weekday::Friday)?;
                if friday >= today {
                    return Some(Days::one(friday).or(whole.1, "the last day of the week"));
                }
                (whole.1, whole.1)
            }
            _ => calendar::edge(whole, edge)?,
        };
        if end < today && !over && edge != Edge::Whole {
            // "at the beginning of the month", said later in it
            period = match period {
                Period::Week(0) => Period::Week(1),
                Period::Month(0) => Period::Month(1),
                Period::Quarter(0) => Period::Quarter(1),
                Period::Year(0) => Period::Year(1),
                Period::Named { month, which: Which::Plain, year: None } => {
                    Period::Named { month, which: Which::Next, year: None }
                }
                Period::Season { month, which: Which::Plain } => Period::Season { month, which: Which::Next },
                other => other,
            };
            over = true;
            continue;
        }
        let point = matches!(edge, Edge::Start | Edge::Middle | Edge::End) && start == end;
        let mut found = if point { Days::one(start) } else { stretch(start, end, today)? };
        if over {
            found.notes.push("this one is over: the next one is taken".to_owned());
        }
        match period {
            Period::Named { which: Which::Next, year: None, .. } | Period::Season { which: Which::Next, .. }
                if !over && start > today && start.year() == today.year() =>
            {
                let later = calendar::plus(start, Lapse { months: 12, ..Lapse::default() })?;
                found = found.or(later, "the one of next year");
            }
            _ => {}
        }
        if matches!(period, Period::Season { .. }) {
            found.notes.push("seasons are those of the northern half of the world, in whole months".to_owned());
        }
        return Some(found);
    }
}
