//! Recurrences: the rule as RFC 5545 writes it, and its first occurrence.

use std::fmt;

use jiff::{
    Span, Zoned,
    civil::{Date, Weekday},
};

use super::{
    Bound, Locale, Point,
    calendar::{nth_in_month, plus, plus_days},
    days::days,
    phrase::{Clock, Day, Every, Holiday, Lapse, Period, Phrase, Repeat},
    settle::Settler,
};

/// How far ahead a first occurrence is looked for: 29 February comes after eight years at most.
const DAYS_AHEAD: i64 = 3660;

/// What repeats. Its time of the day is its first occurrence's, unless there are several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub every: Every,
    pub interval: u32,
    pub month: Option<i8>,
    pub month_day: Option<i8>,
    /// With 0 every such weekday, else the nth of the month; -1 is the last.
    pub days: Vec<(i8, Weekday)>,
    /// Several times on a day: hours, and the minute that they share.
    pub hours: Vec<i32>,
    pub minute: Option<i32>,
    pub until: Option<String>,
    sunday_first: bool,
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let every = match self.every {
            Every::Minute => "MINUTELY",
            Every::Hour => "HOURLY",
            Every::Day => "DAILY",
            Every::Week => "WEEKLY",
            Every::Month => "MONTHLY",
            Every::Year => "YEARLY",
        };
        write!(f, "FREQ={every}")?;
        if self.interval > 1 {
            write!(f, ";INTERVAL={}", self.interval)?;
        }
        if let Some(until) = &self.until {
            write!(f, ";UNTIL={until}")?;
        }
        if let Some(month) = self.month {
            write!(f, ";BYMONTH={month}")?;
        }
        if let Some(day) = self.month_day {
            write!(f, ";BYMONTHDAY={day}")?;
        }
        let list = |of: Vec<String>| of.join(",");
        if !self.days.is_empty() {
            let days = self.days.iter().map(|(n, day)| match n {
                0 => code(*day).to_owned(),
                n => format!("{n}{}", code(*day)),
            });
            write!(f, ";BYDAY={}", list(days.collect()))?;
        }
        if !self.hours.is_empty() {
            write!(f, ";BYHOUR={}", list(self.hours.iter().map(i32::to_string).collect()))?;
        }
        if let Some(minute) = self.minute {
            write!(f, ";BYMINUTE={minute}")?;
        }
        // where a week begins says which weeks an interval skips
        if self.sunday_first && self.every == Every::Week && self.interval > 1 && self.days.len() > 1 {
            f.write_str(";WKST=SU")?;
        }
        Ok(())
    }
}

fn code(day: Weekday) -> &'static str {
    match day {
        Weekday::Monday => "MO",
        Weekday::Tuesday => "TU",
        Weekday::Wednesday => "WE",
        Weekday::Thursday => "TH",
        Weekday::Friday => "FR",
        Weekday::Saturday => "SA",
        Weekday::Sunday => "SU",
    }
}

/// The first occurrence, where it ends, and the rule.
pub(super) fn settle(phrase: &Phrase, s: &mut Settler<'_>) -> (Option<Point>, Option<Point>, Option<Rule>) {
    let Some(repeat) = &phrase.repeat else { return (None, None, None) };
    let times = repeat.times as usize;
    if times > 1 && (times != phrase.clocks.len() || repeat.every != Every::Day) {
        let unit = unit(repeat.every);
        s.notes.push(format!("more than once a {unit}: which times are meant was not said"));
        return (None, None, None);
    }
    let today = s.now.date();
    let (mut rule, anchor) = match rule(phrase, repeat, s, today) {
        Ok(found) => found,
        Err(why) => {
            s.notes.push(why);
            return (None, None, None);
        }
    };
    let start = if matches!(rule.every, Every::Minute | Every::Hour) {
        often(&mut rule, repeat, phrase, s)
    } else {
        first(&mut rule, phrase, s, anchor.unwrap_or(today).max(today))
    };
    let stop = phrase.end.as_ref().and_then(|end| s.end(end, start.as_ref(), false));
    if let Some(stop) = &stop {
        rule.until = until(stop, start.as_ref(), s.now);
    }
    if start.is_none() {
        s.notes.push("no day fits this rule".to_owned());
        return (None, stop, None);
    }
    let expressible = !matches!(phrase.day, Some(Day::Holiday(Holiday::Easter(_) | Holiday::MothersDay)));
    (start, stop, expressible.then_some(rule))
}

fn unit(every: Every) -> &'static str {
    match every {
        Every::Minute => "minute",
        Every::Hour => "hour",
        Every::Day => "day",
        Every::Week => "week",
        Every::Month => "month",
        Every::Year => "year",
    }
}

/// The rule without its hours, and the day from which it holds.
fn rule(phrase: &Phrase, repeat: &Repeat, s: &mut Settler<'_>, today: Date) -> Result<(Rule, Option<Date>), String> {
    let locale = s.context.locale;
    let mut rule = Rule {
        every: repeat.every,
        interval: repeat.interval.max(1),
        month: repeat.month,
        month_day: repeat.month_day,
        days: repeat.nth.into_iter().collect(),
        hours: Vec::new(),
        minute: None,
        until: None,
        sunday_first: locale == Locale::American,
    };
    let from = phrase.bound == Bound::From;
    let mut weekdays = phrase.weekdays.as_slice();
    let mut anchored = phrase.day.is_some();
    match (repeat.every, &phrase.day) {
        (Every::Day | Every::Month | Every::Year, None) if from && !weekdays.is_empty() => anchored = true,
        (Every::Day, None) if !weekdays.is_empty() => rule.every = Every::Week,
        (Every::Month, Some(Day::OfMonth(day))) if !from => (rule.month_day, anchored) = (Some(*day), false),
        (Every::Month, Some(Day::Nth { n, weekday: Some(day), of: Period::Month(0) })) => {
            (rule.days, anchored) = (vec![(*n, *day)], false);
        }
        (Every::Year, Some(Day::Date { month, day, year: None, swaps })) if !from => {
            (rule.month, rule.month_day, anchored) = (Some(*month), Some(*day), false);
            if *swaps {
                s.notes.push("month and day may be the other way round".to_owned());
            }
        }
        (Every::Year, Some(Day::Holiday(Holiday::Fixed(month, day)))) => {
            (rule.month, rule.month_day, anchored) = (Some(*month), Some(*day), false);
        }
        (Every::Year, Some(Day::Holiday(Holiday::Nth(n, day, month)))) => {
            (rule.month, rule.days, anchored) = (Some(*month), vec![(*n, *day)], false);
        }
        (Every::Year, Some(Day::Nth { n, weekday: Some(day), of: Period::Named { month, .. } })) => {
            (rule.month, rule.days, anchored) = (Some(*month), vec![(*n, *day)], false);
        }
        (Every::Year, Some(Day::Stretch(Period::Named { month, .. }, _) | Day::Stretch(Period::Season { month, .. }, _))) => {
            (rule.month, rule.month_day, anchored) = (Some(*month), Some(1), false);
        }
        _ => {}
    }
    let anchor = if anchored {
        let alone =
            Phrase { weekdays: if phrase.day.is_none() { phrase.weekdays.clone() } else { Vec::new() }, ..phrase.clone() };
        let found = days(&alone, today, locale)?;
        if phrase.day.is_none() {
            weekdays = &[];
        }
        s.notes.extend(found.others.iter().map(|(date, why)| format!("{date}: {why}")));
        s.notes.extend(found.notes.iter().cloned());
        Some(found.start)
    } else {
        None
    };
    if !weekdays.is_empty() {
        if rule.every != Every::Week {
            return Err(format!("every {} and a day of the week do not go together", unit(rule.every)));
        }
        rule.days = weekdays.iter().map(|day| (0, *day)).collect();
    }
    if let Some(day @ 29..=31) = rule.month_day {
        let skipped = if rule.month == Some(2) { "years" } else { "months" };
        if rule.month.is_none() || day == 29 {
            s.notes.push(format!("{skipped} without a day {day} are skipped"));
        }
    }
    let free = rule.days.is_empty() && rule.month.is_none() && rule.month_day.is_none() && anchor.is_none();
    if free && matches!(rule.every, Every::Week | Every::Month | Every::Year) {
        s.notes.push(format!("which day of the {} was not said: counted from the first", unit(rule.every)));
    }
    Ok((rule, anchor))
}

/// Rules of minutes and hours begin one interval from now, or at the time that was said.
fn often(rule: &mut Rule, repeat: &Repeat, phrase: &Phrase, s: &mut Settler<'_>) -> Option<Point> {
    if phrase.has_day() {
        s.notes.push("a day and a rule of hours do not go together: the day was not used".to_owned());
    }
    if repeat.on_the_hour {
        rule.minute = Some(0);
        let now = s.now.datetime();
        let hour = s.now.date().at(now.hour(), 0, 0, 0).to_zoned(s.now.time_zone().clone()).ok()?;
        return hour.checked_add(Span::new().try_hours(1).ok()?).ok().map(Point::At);
    }
    if let Some(clock) = phrase.clocks.first() {
        let choices = s.choices(*clock, phrase.part);
        let (minutes, other) = s.usual(&choices)?;
        return occurrence(s, s.now.date(), minutes, other, |_| true);
    }
    let seconds = i64::from(rule.interval) * if rule.every == Every::Hour { 3600 } else { 60 };
    s.now.checked_add(Span::new().try_seconds(seconds).ok()?).ok().map(Point::At)
}

fn first(rule: &mut Rule, phrase: &Phrase, s: &mut Settler<'_>, from: Date) -> Option<Point> {
    let fits = |rule: &Rule, date: Date| {
        let day = match rule.month_day {
            Some(-1) => date == date.last_of_month(),
            Some(day) => date.day() == day,
            None => true,
        };
        let weekday = rule.days.is_empty()
            || rule.days.iter().any(|(n, weekday)| {
                date.weekday() == *weekday && (*n == 0 || nth_in_month(date.first_of_month(), *n, *weekday) == Some(date))
            });
        day && weekday && rule.month.is_none_or(|month| date.month() == month)
    };
    let holiday = match (&phrase.day, &rule.month) {
        (Some(Day::Holiday(_)), None) => Some(from),
        _ => None,
    };
    let rule_now = rule.clone();
    let fits = move |date: Date| holiday.map_or_else(|| fits(&rule_now, date), |day| date == day);
    let choices: Vec<Vec<i32>> = match (phrase.clocks.as_slice(), phrase.part) {
        ([], None) => {
            return (0..DAYS_AHEAD).find_map(|days| plus_days(from, days).filter(|date| fits(*date))).map(Point::On);
        }
        ([], Some(part)) => vec![vec![part.usual]],
        (clocks, part) => clocks.iter().map(|clock| on_its_day(s, *clock, part)).collect(),
    };
    let usual: Vec<(i32, Option<i32>)> = choices.iter().filter_map(|choices| s.usual(choices)).collect();
    let (mut minutes, mut other) = *usual.first()?;
    if usual.len() > 1 {
        let minute = minutes.rem_euclid(60);
        if usual.iter().all(|(minutes, _)| minutes.rem_euclid(60) == minute) {
            rule.hours = usual.iter().map(|(minutes, _)| minutes / 60 % 24).collect();
            rule.hours.sort_unstable();
            rule.minute = Some(minute);
            // the first that comes
            let now = s.now.datetime();
            let passed = if from == s.now.date() { i32::from(now.hour()) * 60 + i32::from(now.minute()) } else { -1 };
            let mut all: Vec<i32> = usual.iter().map(|(minutes, _)| *minutes).collect();
            all.sort_unstable();
            minutes = all.iter().copied().find(|minutes| *minutes > passed).or(all.first().copied())?;
            other = None;
            s.notes.push("hours without their half of the day were read as in waking hours".to_owned());
        } else {
            s.notes.push("more than one time was said: the first is taken".to_owned());
        }
    }
    occurrence(s, from, minutes, other, fits)
}

/// Of a rule, midnight is the one that begins the day that is named.
fn on_its_day(s: &mut Settler<'_>, clock: Clock, part: Option<super::phrase::Part>) -> Vec<i32> {
    if clock.midnight {
        return vec![0];
    }
    s.choices(clock, part)
}

/// The first day that fits and whose time is still to come; the other half of the day is reported.
fn occurrence(s: &mut Settler<'_>, from: Date, minutes: i32, other: Option<i32>, fits: impl Fn(Date) -> bool) -> Option<Point> {
    let soonest = |s: &Settler<'_>, minutes: i32| -> Option<(Date, Zoned)> {
        (0..DAYS_AHEAD).find_map(|days| {
            let date = plus(from, Lapse { days, ..Lapse::default() }).filter(|date| fits(*date))?;
            s.quietly(date, minutes).filter(|time| time > s.now).map(|time| (date, time))
        })
    };
    let (date, _) = soonest(s, minutes)?;
    let time = s.at(date, minutes)?;
    if let Some((_, other)) = other.and_then(|other| soonest(s, other)) {
        s.reading(&other, "the other half of the day");
    }
    Some(Point::At(time))
}

/// UNTIL is of the kind of the first occurrence: a date, or a time in UTC; a day counts to its end.
fn until(stop: &Point, start: Option<&Point>, now: &Zoned) -> Option<String> {
    let time = match (stop, start) {
        (stop, Some(Point::On(_))) => return Some(stop.date().strftime("%Y%m%d").to_string()),
        (Point::At(time), _) => time.clone(),
        (Point::On(date), _) => date.at(23, 59, 59, 0).to_zoned(now.time_zone().clone()).ok()?,
    };
    Some(time.timestamp().strftime("%Y%m%dT%H%M%SZ").to_string())
}
