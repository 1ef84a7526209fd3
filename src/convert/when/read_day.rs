//! Reads days and stretches of days: "tomorrow", "next friday", "the 3rd of may", "3/5", "the end of june", "easter monday".

use super::{
    Locale,
    names::{holiday, month, season, weekday},
    phrase::{Day, Edge, Period, Phrase, Which},
    read::Reader,
    words::{Cursor, Token},
};

impl Reader {
    pub(super) fn day(self, c: &mut Cursor, p: &mut Phrase) -> bool {
        let joined = c.before() == "and";
        let mut ahead = c.clone();
        ahead.eat("the");
        let day = near(&mut ahead)
            .or_else(|| retry(&mut ahead, nth))
            .or_else(|| retry(&mut ahead, edged))
            .or_else(|| retry(&mut ahead, |c| self.date(c)))
            .or_else(|| retry(&mut ahead, stretch));
        if let Some(day) = day {
            *c = ahead;
            if matches!(day, Day::Offset(_)) {
                weeks_on(c, p);
            }
            p.put_day(day, joined);
            return true;
        }
        ahead = c.clone();
        if !self.weekday(&mut ahead, p) {
            return false;
        }
        *c = ahead;
        true
    }

    /// "friday", "this coming friday", "next friday", "friday week".
    fn weekday(self, c: &mut Cursor, p: &mut Phrase) -> bool {
        let which = which(c);
        let Some((day, false)) = weekday(c.word(0)) else { return false };
        c.advance(1);
        if !p.weekdays.contains(&day) {
            p.weekdays.push(day);
        }
        if which != Which::Plain {
            p.which = which;
        }
        if p.day.is_none() && c.eat("next week") {
            p.day = Some(Day::Stretch(Period::Week(1), Edge::Whole));
        } else {
            weeks_on(c, p);
        }
        true
    }

    fn date(self, c: &mut Cursor) -> Option<Day> {
        let small = |n: u32| i8::try_from(n).ok().filter(|n| *n > 0);
        match *c.peek(0)? {
            Token::Dated(year, month, day) => {
                c.advance(1);
                Some(Day::Date { year: Some(i16::try_from(year).ok()?), month: small(month)?, day: small(day)?, swaps: false })
            }
            Token::Slashed(a, b, year) => {
                let year = year.map(|year| if year < 100 { year + 2000 } else { year });
                let year = match year {
                    Some(year) => Some(i16::try_from(year).ok()?),
                    None => None,
                };
                let british = self.locale == Locale::British;
                let day_first = if a > 12 || b > 12 { a > 12 } else { british };
                let (day, month) = if day_first { (a, b) } else { (b, a) };
                c.advance(1);
                Some(Day::Date { year, month: small(month)?, day: small(day)?, swaps: a <= 12 && b <= 12 && a != b })
            }
            Token::Dotted(day, month) if c.before() == "on" || (day > 23 && month <= 12) => {
                c.advance(1);
                Some(Day::Date { year: None, month: small(month)?, day: small(day)?, swaps: false })
            }
            Token::Number(day) | Token::Ordinal(day) if (1..=31).contains(&day) => {
                let ordinal = matches!(c.peek(0), Some(Token::Ordinal(_)));
                let mut ahead = c.clone();
                ahead.advance(1);
                ahead.eat("of");
                if let Some(month) = month(ahead.word(0)) {
                    // "at two march 3rd": the number is a time
                    let time = !ordinal && matches!(ahead.peek(1), Some(Token::Ordinal(_)));
                    if time {
                        return None;
                    }
                    ahead.advance(1);
                    *c = ahead;
                    return Some(Day::Date { year: year(c), month, day: small(day)?, swaps: false });
                }
                if !ordinal || matches!(c.word(1), "thing" | "week" | "day" | "time") || weekday(c.word(1)).is_some() {
                    return None;
                }
                c.advance(1);
                Some(Day::OfMonth(small(day)?))
            }
            _ => {
                let month = month(c.word(0))?;
                let mut ahead = c.clone();
                ahead.advance(1);
                ahead.eat("the");
                match *ahead.peek(0)? {
                    Token::Ordinal(day) | Token::Number(day) if (1..=31).contains(&day) => {
                        ahead.advance(1);
                        *c = ahead;
                        Some(Day::Date { year: year(c), month, day: small(day)?, swaps: false })
                    }
                    _ => None,
                }
            }
        }
    }
}

/// Tries a reader and puts the cursor back if it took nothing.
fn retry(c: &mut Cursor, read: impl FnOnce(&mut Cursor) -> Option<Day>) -> Option<Day> {
    let mut ahead = c.clone();
    let day = read(&mut ahead)?;
    *c = ahead;
    Some(day)
}

fn near(c: &mut Cursor) -> Option<Day> {
    if c.eat("week of the")
        && let Some(Token::Ordinal(day @ 1..=31)) = c.peek(0)
    {
        c.advance(1);
        return Some(Day::WeekOf(*day as i8));
    }
    let days = [
        ("day after tomorrow", 2),
        ("day before yesterday", -2),
        ("following day", 1),
        ("today", 0),
        ("tomorrow", 1),
        ("yesterday", -1),
    ];
    days.into_iter().find(|(words, _)| c.eat(words)).map(|(_, days)| Day::Offset(days))
}

/// "first monday of next month", "last day of june", "first week of may", "1st of the month".
fn nth(c: &mut Cursor) -> Option<Day> {
    let n = match c.peek(0)? {
        Token::Ordinal(n @ 1..=31) => *n as i8,
        Token::Word(word) if word == "last" => -1,
        _ => return None,
    };
    c.advance(1);
    let day = weekday(c.word(0)).map(|(day, _)| day);
    let week = c.word(0) == "week";
    let named = day.is_some() || week || c.word(0) == "day";
    c.advance(usize::from(named));
    if !c.eat_any(&["of the", "in the", "of", "in"]) || (!named && n < 0) {
        return None;
    }
    Some(match (period(c)?, day) {
        (period, _) if week => Day::Stretch(period, Edge::WeekNumber(n)),
        (Period::Named { month, year, .. }, None) if n > 0 => Day::Date { year, month, day: n, swaps: false },
        (Period::Month(0), None) if n > 0 => Day::OfMonth(n),
        (of, weekday) => Day::Nth { n, weekday, of },
    })
}

/// "friday week", "tomorrow week": a week later.
fn weeks_on(c: &mut Cursor, p: &mut Phrase) {
    let days = if c.eat("week") {
        7
    } else if c.eat("fortnight") {
        14
    } else {
        return;
    };
    p.shift.days += days;
}

fn which(c: &mut Cursor) -> Which {
    if c.eat_any(&["this coming", "the coming", "coming", "this next", "the following", "following"]) {
        Which::Coming
    } else if c.eat("this") {
        Which::This
    } else if c.eat("next") {
        Which::Next
    } else if c.eat("last") {
        Which::Last
    } else {
        c.eat("the");
        Which::Plain
    }
}

/// "end of the month", "early june", "mid august", "middle of next week".
fn edged(c: &mut Cursor) -> Option<Day> {
    let edges: [(&[&str], Edge); 6] = [
        (&["beginning of", "start of"], Edge::Start),
        (&["middle of"], Edge::Middle),
        (&["end of"], Edge::End),
        (&["early in", "early"], Edge::Early),
        (&["mid"], Edge::Mid),
        (&["late in", "late"], Edge::Late),
    ];
    let (_, edge) = edges.into_iter().find(|(words, _)| c.eat_any(words))?;
    c.eat("the");
    let period = period(c)?;
    let month = matches!(period, Period::Named { .. } | Period::Month(_));
    let edge = if edge == Edge::Middle && month { Edge::Mid } else { edge };
    Some(Day::Stretch(period, edge))
}

/// "this week", "the week after next", "next weekend", "in may", "the summer", "christmas", "in 2027".
fn stretch(c: &mut Cursor) -> Option<Day> {
    if c.eat("rest of") {
        c.eat("the");
    }
    if c.eat("weekend after next") {
        return Some(Day::Weekend(2));
    }
    let mut ahead = c.clone();
    let which = which(&mut ahead);
    if ahead.eat("weekend") {
        *c = ahead;
        let weeks = match which {
            Which::Next => 1,
            Which::Last => -1,
            _ => 0,
        };
        return Some(Day::Weekend(weeks));
    }
    if which != Which::Last
        && let Some((holiday, length)) = holiday(|by| ahead.word(by))
    {
        ahead.advance(length);
        *c = ahead;
        return Some(Day::Holiday(holiday));
    }
    period(c).map(|period| Day::Stretch(period, Edge::Whole))
}

fn period(c: &mut Cursor) -> Option<Period> {
    if c.eat_any(&["week after next", "week after the next"]) {
        return Some(Period::Week(2));
    }
    if c.eat("month after next") {
        return Some(Period::Month(2));
    }
    if matches!(c.before(), "in" | "by" | "until" | "till" | "of" | "before" | "from")
        && let Some(Token::Number(year @ 1900..=2199)) = c.peek(0)
    {
        c.advance(1);
        return Some(Period::InYear(*year as i16));
    }
    let mut ahead = c.clone();
    let which = which(&mut ahead);
    let steps = match which {
        Which::Next | Which::Coming => 1,
        Which::Last => -1,
        _ => 0,
    };
    let word = ahead.word(0);
    // "a week" by itself is a length, not a place in the calendar
    let article = matches!(c.before(), "a" | "an" | "every" | "each");
    let period = match word {
        "week" | "month" | "quarter" | "year" if article => return None,
        // "quarter past nine"
        "quarter" if which == Which::Plain && c.before() != "the" => return None,
        "week" => Period::Week(steps),
        "month" => Period::Month(steps),
        "quarter" => Period::Quarter(steps),
        "year" => Period::Year(steps),
        _ => match (month(word), season(word)) {
            (Some(month), _) => {
                ahead.advance(1);
                ahead.eat("of");
                *c = ahead;
                return Some(Period::Named { month, which, year: year(c) });
            }
            (None, Some(month)) => Period::Season { month, which },
            _ => return None,
        },
    };
    ahead.advance(1);
    *c = ahead;
    Some(period)
}

/// "2027", "twenty twenty seven" after a month or a date.
fn year(c: &mut Cursor) -> Option<i16> {
    match (c.peek(0), c.peek(1)) {
        (Some(Token::Number(year @ 1900..=2199)), _) => {
            c.advance(1);
            i16::try_from(*year).ok()
        }
        (Some(Token::Number(20)), Some(Token::Number(rest @ 10..=99))) => {
            c.advance(2);
            i16::try_from(2000 + rest).ok()
        }
        _ => None,
    }
}
