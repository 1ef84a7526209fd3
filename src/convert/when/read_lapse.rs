//! Reads lengths of time and what they are counted from: "in twenty minutes", "an hour and a half from now", "a week on
//! tuesday", "two days before christmas".

use super::{
    Bound,
    phrase::{Day, Lapse, Phrase},
    read::Reader,
    words::{Cursor, Token},
};

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;

impl Reader {
    pub(super) fn lapse(self, c: &mut Cursor, p: &mut Phrase) -> bool {
        let mut ahead = c.clone();
        let within = ahead.eat_any(&[
            "within the next",
            "in the next",
            "over the next",
            "during the next",
            "for the next",
            "the next",
            "within",
            "inside",
        ]);
        let within = within || (ahead.word(0) == "next" && matches!(ahead.peek(1), Some(Token::Number(_))) && ahead.eat("next"));
        let inside = within || ahead.eat("in");
        let around = ahead.eat_any(&["about", "around", "roughly", "approximately", "another"]);
        let the = ahead.eat("the");
        let mut notes = Vec::new();
        let Some(length) = quantity(&mut ahead, within || the, &mut notes) else { return false };
        if the && !within && !anchor(&ahead) {
            return false;
        }
        let from_now = ahead.eat_any(&["time from now", "from now", "from today", "hence", "time"]);
        if ahead.eat("ago") {
            p.lapse = Some(length.backwards());
        } else if (from_now || inside) && !(inside && anchor(&ahead)) {
            if within {
                p.bound = Bound::By;
            } else if around {
                p.bound = Bound::Around;
            }
            if length.is_calendar() {
                p.put_day(Day::In(length), false);
            } else {
                p.lapse = Some(length);
            }
        } else if !self.counted(&mut ahead, p, length) {
            return false;
        }
        for note in notes {
            p.note(note);
        }
        *c = ahead;
        true
    }

    /// What a length is counted from: "after lunch", "before christmas", "from friday", "on tuesday", "today".
    fn counted(self, c: &mut Cursor, p: &mut Phrase, length: Lapse) -> bool {
        let weeks = length.is_calendar() && length.months == 0 && length.days % 7 == 0;
        let shift = if c.eat("before") {
            length.backwards()
        } else if c.eat_any(&["after", "from"]) || (weeks && (matches!(c.word(0), "today" | "tomorrow") || c.eat("on"))) {
            length
        } else {
            return false;
        };
        // the thing it is counted from has to be a day or a time that is known
        let mut probe = (c.clone(), Phrase::default());
        probe.0.eat_any(&["the", "at"]);
        let known = self.part(&mut probe.0, &mut probe.1)
            || self.day(&mut probe.0, &mut probe.1)
            || self.clock(&mut probe.0, &mut probe.1);
        let sum = p.shift.plus(shift);
        match sum {
            Some(sum) if known => p.shift = sum,
            _ => return false,
        }
        true
    }
}

/// Whether what follows says what a length is counted from: "in the hour after lunch".
fn anchor(c: &Cursor) -> bool {
    matches!(c.word(0), "before" | "after") || (c.word(0) == "from" && !matches!(c.word(1), "now" | "today"))
}

/// "an hour and a half", "three quarters of an hour", "2 hours 30 minutes", "a couple of days". `bare` allows "the next hour".
fn quantity(c: &mut Cursor, bare: bool, notes: &mut Vec<String>) -> Option<Lapse> {
    let mut sum = one(c, bare, notes)?;
    loop {
        let mut ahead = c.clone();
        ahead.eat("and");
        let unit = if sum.seconds % HOUR == 0 && sum.seconds != 0 { HOUR } else { 0 };
        if unit != 0 && ahead.eat_any(&["a half", "half"]) {
            sum.seconds += unit / 2;
        } else if unit != 0 && ahead.eat_any(&["a quarter", "quarter"]) {
            sum.seconds += unit / 4;
        } else if let Some(more) = one(&mut ahead, false, notes).filter(|more| finer(*more, sum)) {
            sum = sum.plus(more)?;
        } else {
            break;
        }
        *c = ahead;
    }
    if c.word(0) == "or" && matches!(c.peek(1), Some(Token::Number(_))) {
        c.advance(2);
        notes.push("two lengths were said: the first is taken".to_owned());
    } else if c.eat("or so") {
        notes.push("about this long (\"or so\")".to_owned());
    }
    Some(sum)
}

/// Whether a second length can belong to the first: "one hour twenty minutes", not "two days three weeks".
fn finer(more: Lapse, sum: Lapse) -> bool {
    let rank = |lapse: Lapse| match lapse {
        Lapse { months: 1.., .. } => 5,
        Lapse { days: 7.., .. } => 4,
        Lapse { days: 1.., .. } => 3,
        Lapse { seconds: HOUR.., .. } => 2,
        Lapse { seconds: MINUTE.., .. } => 1,
        _ => 0,
    };
    rank(more) < rank(sum)
}

fn one(c: &mut Cursor, bare: bool, notes: &mut Vec<String>) -> Option<Lapse> {
    let mut ahead = c.clone();
    if ahead.eat_any(&["half an hour", "a half an hour", "half hour", "a half hour"]) {
        *c = ahead;
        return Some(Lapse { seconds: HOUR / 2, ..Lapse::default() });
    }
    if ahead.eat_any(&["quarter of an hour", "a quarter of an hour", "quarter hour", "a quarter hour"]) {
        *c = ahead;
        return Some(Lapse { seconds: HOUR / 4, ..Lapse::default() });
    }
    if ahead.peek(0) == Some(&Token::Number(3)) {
        ahead.advance(1);
        if ahead.eat("quarters of an hour") {
            *c = ahead;
            return Some(Lapse { seconds: HOUR / 4 * 3, ..Lapse::default() });
        }
        ahead = c.clone();
    }
    if ahead.eat_any(&["half a day", "half a year"]) {
        let year = ahead.before() == "year";
        *c = ahead;
        return Some(if year {
            Lapse { months: 6, ..Lapse::default() }
        } else {
            Lapse { seconds: 12 * HOUR, ..Lapse::default() }
        });
    }
    // in halves, so that "two and a half hours" is whole
    let halves = if ahead.eat_any(&["a couple of", "a couple", "couple of", "couple"]) {
        4
    } else if ahead.eat_any(&["a few more", "a few", "few", "several"]) {
        notes.push("\"a few\" was read as three".to_owned());
        6
    } else {
        match ahead.peek(0) {
            Some(Token::Number(n)) => {
                let n = i64::from(*n);
                ahead.advance(1);
                n * 2 + i64::from(ahead.eat("and a half"))
            }
            Some(Token::Dotted(n, 5)) => {
                ahead.advance(1);
                i64::from(*n) * 2 + 1
            }
            Some(Token::Word(word)) if word == "a" || word == "an" => {
                ahead.advance(1);
                2
            }
            _ if bare => 2,
            _ => return None,
        }
    };
    ahead.eat_any(&["more", "full", "whole"]);
    let lapse = |months: i64, days: i64, seconds: i64| Lapse { months, days, seconds };
    let half = halves % 2 != 0;
    let whole = halves / 2;
    let length = match ahead.word(0) {
        "second" | "seconds" | "sec" | "secs" => lapse(0, 0, halves / 2),
        "minute" | "minutes" | "min" | "mins" => lapse(0, 0, halves * MINUTE / 2),
        "hour" | "hours" | "hr" | "hrs" => lapse(0, 0, halves * HOUR / 2),
        "day" | "days" | "night" | "nights" if half => lapse(0, whole, 12 * HOUR),
        "day" | "days" | "nights" => lapse(0, whole, 0),
        "week" | "weeks" if !half => lapse(0, whole * 7, 0),
        "fortnight" | "fortnights" if !half => lapse(0, whole * 14, 0),
        "month" | "months" if !half => lapse(whole, 0, 0),
        "year" | "years" => lapse(whole * 12 + if half { 6 } else { 0 }, 0, 0),
        _ => return None,
    };
    ahead.advance(1);
    *c = ahead;
    Some(length)
}
