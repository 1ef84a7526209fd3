//! Reads how often: "every other monday", "daily at ten", "on weekdays", "the first friday of every month", "twice a week".

use jiff::civil::Weekday;

use super::{
    names::{holiday, month, season, weekday},
    phrase::{Day, Edge, Every, Holiday, Part, Period, Phrase, Repeat, Which},
    read::Reader,
    words::{Cursor, Token},
};

const WORKDAYS: [Weekday; 5] = [Weekday::Monday, Weekday::Tuesday, Weekday::Wednesday, Weekday::Thursday, Weekday::Friday];
const WEEKEND: [Weekday; 2] = [Weekday::Saturday, Weekday::Sunday];

impl Reader {
    pub(super) fn repeat(self, c: &mut Cursor, p: &mut Phrase) -> bool {
        let mut ahead = c.clone();
        let (mut read, mut days) = (Phrase::default(), Vec::new());
        ahead.eat("the");
        let found = adverb(&mut ahead, &mut read)
            .or_else(|| retry(&mut ahead, of_every_month))
            .or_else(|| retry(&mut ahead, times))
            .or_else(|| retry(&mut ahead, |c| every(c, &mut read, &mut days)))
            .or_else(|| retry(&mut ahead, |c| plural(c, &mut read, &mut days)))
            .or_else(|| retry(&mut ahead, |c| through(c, &mut days)));
        let Some(repeat) = found else { return false };
        if let Some(first) = &mut p.repeat {
            // "every monday" "every thursday", or "every week on mondays"
            if first.every == Every::Week && repeat.every == Every::Week {
                p.weekdays.append(&mut days);
                first.interval = first.interval.max(repeat.interval);
            } else if *first != repeat {
                p.note("two recurrences were said: the first is taken");
            }
        } else {
            p.repeat = Some(repeat);
            p.weekdays.append(&mut days);
        }
        p.weekdays.sort_by_key(|day| day.to_monday_zero_offset());
        p.weekdays.dedup();
        p.part = p.part.or(read.part);
        if let Some(day) = read.day {
            p.put_day(day, false);
        }
        p.notes.append(&mut read.notes);
        *c = ahead;
        true
    }
}

/// Tries a reader and puts the cursor back if it took nothing.
fn retry(c: &mut Cursor, read: impl FnOnce(&mut Cursor) -> Option<Repeat>) -> Option<Repeat> {
    let mut ahead = c.clone();
    let repeat = read(&mut ahead)?;
    *c = ahead;
    Some(repeat)
}

/// "daily", "weekly", "nightly".
fn adverb(c: &mut Cursor, p: &mut Phrase) -> Option<Repeat> {
    let (every, interval) = match c.word(0) {
        "hourly" => (Every::Hour, 1),
        "daily" | "nightly" => (Every::Day, 1),
        "weekly" => (Every::Week, 1),
        "fortnightly" => (Every::Week, 2),
        "biweekly" => {
            p.note("\"biweekly\" was read as every two weeks; some mean twice a week");
            (Every::Week, 2)
        }
        "monthly" => (Every::Month, 1),
        "quarterly" => (Every::Month, 3),
        "yearly" | "annually" => (Every::Year, 1),
        _ => return None,
    };
    if c.word(0) == "nightly" {
        p.part = Part::named("night");
    }
    c.advance(1);
    Some(Repeat::new(every, interval))
}

/// "first monday of every month", "15th of each month", "last day of every month".
fn of_every_month(c: &mut Cursor) -> Option<Repeat> {
    let n = match c.peek(0)? {
        Token::Ordinal(n @ 1..=31) => *n as i8,
        Token::Word(word) if word == "last" => -1,
        _ => return None,
    };
    c.advance(1);
    let day = weekday(c.word(0)).map(|(day, _)| day);
    let named = day.is_some() || c.word(0) == "day";
    c.advance(usize::from(named));
    if (!named && n < 0)
        || !c.eat_any(&["of every month", "of each month", "in every month", "in each month", "every month", "each month"])
    {
        return None;
    }
    month_rule(n, day)
}

/// The nth day, or the nth weekday, of the month. There is no sixth monday.
fn month_rule(n: i8, day: Option<Weekday>) -> Option<Repeat> {
    let mut repeat = Repeat::new(Every::Month, 1);
    match day {
        Some(day) if n <= 5 => repeat.nth = Some((n, day)),
        Some(_) => return None,
        None => repeat.month_day = Some(n),
    }
    Some(repeat)
}

/// "once a week", "twice a day", "three times a month".
fn times(c: &mut Cursor) -> Option<Repeat> {
    let times = if c.eat("once") {
        1
    } else if c.eat_any(&["twice", "a couple of times"]) {
        2
    } else if c.eat_any(&["several times", "a few times"]) {
        // how many was not said: never one
        u32::MAX
    } else {
        let Some(Token::Number(n)) = c.peek(0) else { return None };
        c.advance(1);
        c.eat("times").then_some(*n)?
    };
    c.eat_any(&["a", "an", "per", "every", "each"]).then_some(())?;
    let every = unit(c.word(0))?;
    c.advance(1);
    Some(Repeat { times, ..Repeat::new(every, 1) })
}

fn unit(word: &str) -> Option<Every> {
    match word.strip_suffix('s').unwrap_or(word) {
        "minute" | "min" => Some(Every::Minute),
        "hour" | "hr" => Some(Every::Hour),
        "day" => Some(Every::Day),
        "week" => Some(Every::Week),
        "month" => Some(Every::Month),
        "year" => Some(Every::Year),
        _ => None,
    }
}

/// After "every" or "each".
fn every(c: &mut Cursor, p: &mut Phrase, days: &mut Vec<Weekday>) -> Option<Repeat> {
    c.eat_any(&["every", "each"]).then_some(())?;
    c.eat("single");
    if c.eat_any(&["half an hour", "half hour"]) {
        return Some(Repeat::new(Every::Minute, 30));
    }
    let mut nth = None;
    let interval = if c.eat("other") {
        2
    } else if c.eat_any(&["few", "couple of"]) {
        p.note("how often was not said exactly: read as every two");
        2
    } else {
        match c.peek(0)? {
            Token::Number(n @ 1..=10_000) => {
                c.advance(1);
                *n
            }
            Token::Ordinal(n @ 1..=31) => {
                c.advance(1);
                nth = Some(*n as i8);
                *n
            }
            Token::Word(word) if word == "last" => {
                c.advance(1);
                nth = Some(-1);
                1
            }
            _ => 1,
        }
    };
    let word = c.word(0);
    if let Some((day, _)) = weekday(word) {
        c.advance(1);
        if let Some(n) = nth {
            if c.eat_any(&["of the month", "of every month", "of each month", "in the month", "of a month"]) {
                return month_rule(n, Some(day));
            }
            match n {
                1 | -1 => {
                    p.note(format!("\"every {} {word}\" was read as of the month", if n == 1 { "first" } else { "last" }));
                    return month_rule(n, Some(day));
                }
                _ => p.note(format!("read as every {n} weeks; it can also mean number {n} of the month")),
            }
        }
        days.push(day);
        more_days(c, days);
        return Some(Repeat::new(Every::Week, interval));
    }
    if let (Some(n), "day") = (nth, word) {
        c.advance(1);
        if c.eat_any(&["of the month", "of every month", "of each month"]) {
            return month_rule(n, None);
        }
        return (n > 0).then(|| Repeat::new(Every::Day, interval));
    }
    if nth == Some(-1) {
        return None;
    }
    if let Some(every) = unit(word) {
        c.advance(1);
        let on_the_hour = every == Every::Hour && c.eat("on the hour");
        return Some(Repeat { on_the_hour, ..Repeat::new(every, interval) });
    }
    if let Some((found, length)) = holiday(|by| c.word(by)) {
        c.advance(length);
        p.day = Some(Day::Holiday(found));
        if matches!(found, Holiday::Easter(_) | Holiday::MothersDay) {
            p.note("no rule of RFC 5545 names this day: only the next one is given");
        }
        return Some(Repeat::new(Every::Year, interval));
    }
    if let Some(month) = month(word) {
        c.advance(1);
        p.day = Some(Day::Stretch(Period::Named { month, which: Which::Plain, year: None }, Edge::Start));
        return Some(Repeat { month: Some(month), ..Repeat::new(Every::Year, interval) });
    }
    if let Some(month) = season(word) {
        c.advance(1);
        p.day = Some(Day::Stretch(Period::Season { month, which: Which::Plain }, Edge::Start));
        p.note("a season was read as its first day, on the northern half of the world");
        return Some(Repeat { month: Some(month), ..Repeat::new(Every::Year, interval) });
    }
    let (every, interval) = match word.strip_suffix('s').unwrap_or(word) {
        "fortnight" => (Every::Week, interval.checked_mul(2)?),
        "quarter" => (Every::Month, interval.checked_mul(3)?),
        "weekday" | "workday" => {
            days.extend(WORKDAYS);
            (Every::Week, interval)
        }
        "weekend" => {
            days.extend(WEEKEND);
            (Every::Week, interval)
        }
        "working" if c.word(1) == "day" => {
            c.advance(1);
            days.extend(WORKDAYS);
            (Every::Week, interval)
        }
        // the part itself is read next
        "morning" | "afternoon" | "evening" | "night" | "lunchtime" | "breakfast" | "bedtime" | "teatime" | "dinnertime" => {
            return Some(Repeat::new(Every::Day, interval));
        }
        _ => return None,
    };
    c.advance(1);
    Some(Repeat::new(every, interval))
}

/// "monday", "tuesday and thursday" after a first day.
fn more_days(c: &mut Cursor, days: &mut Vec<Weekday>) {
    loop {
        let mut ahead = c.clone();
        ahead.eat_any(&["and", "or", "&", "plus"]);
        ahead.eat_any(&["on", "every", "each"]);
        let Some((day, _)) = weekday(ahead.word(0)) else { return };
        ahead.advance(1);
        days.push(day);
        *c = ahead;
    }
}

/// "mondays", "on weekdays", "weekends", "mornings", "saturday mornings".
fn plural(c: &mut Cursor, p: &mut Phrase, days: &mut Vec<Weekday>) -> Option<Repeat> {
    let repeat = Some(Repeat::new(Every::Week, 1));
    match c.word(0) {
        "weekdays" | "workdays" => days.extend(WORKDAYS),
        "weekends" => days.extend(WEEKEND),
        name @ ("mornings" | "afternoons" | "evenings" | "nights") => {
            p.part = Part::named(name.trim_end_matches('s'));
            c.advance(1);
            return Some(Repeat::new(Every::Day, 1));
        }
        word => {
            let (day, plural) = weekday(word)?;
            let part = ["mornings", "afternoons", "evenings", "nights"].contains(&c.word(1));
            if part {
                p.part = Part::named(c.word(1).trim_end_matches('s'));
                c.advance(1);
            } else if !plural {
                return plural_list(c, days);
            }
            c.advance(1);
            days.push(day);
            more_days(c, days);
            return repeat;
        }
    }
    c.advance(1);
    repeat
}

/// "tuesday and thursdays": the last one says that all are meant.
fn plural_list(c: &mut Cursor, days: &mut Vec<Weekday>) -> Option<Repeat> {
    let mut ahead = c.clone();
    let (first, _) = weekday(ahead.word(0))?;
    ahead.advance(1);
    let mut list = vec![first];
    more_days(&mut ahead, &mut list);
    let (_, plural) = weekday(ahead.before())?;
    (plural && list.len() > 1).then(|| {
        days.append(&mut list);
        *c = ahead;
        Repeat::new(Every::Week, 1)
    })
}

/// "monday to friday at seven", "mon through sat": with a time, or without a "from", that is a rule.
fn through(c: &mut Cursor, days: &mut Vec<Weekday>) -> Option<Repeat> {
    let (first, _) = weekday(c.word(0))?;
    if !matches!(c.word(1), "to" | "through" | "till" | "thru") || c.before() == "from" {
        return None;
    }
    let (last, _) = weekday(c.word(2))?;
    c.advance(3);
    let mut day = first;
    days.push(day);
    while day != last {
        day = day.wrapping_add(1);
        days.push(day);
    }
    Some(Repeat::new(Every::Week, 1))
}
