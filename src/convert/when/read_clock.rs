//! Reads clock times ("quarter to nine", "18:30", "six pm", "half six", "nine oh five") and parts of the day.

use super::{
    Locale,
    phrase::{CLOSE, Clock, DEEP, Day, Half, LATE, Part, Phrase, TONIGHT},
    read::Reader,
    words::{Cursor, Token},
};

/// Words after which a number is a time.
const PREPOSITIONS: [&str; 9] = ["at", "until", "till", "by", "around", "about", "before", "after", "from"];

impl Reader {
    pub(super) fn clock(self, c: &mut Cursor, p: &mut Phrase) -> bool {
        let (at, alone) = (c.at(), !PREPOSITIONS.contains(&c.before()));
        let Some(mut clock) = self.time(c, p) else { return false };
        p.bare = alone && c.at() == at + 1 && clock.minute == 0 && clock.half == Half::Either;
        // "eighteen hundred hours", "six o'clock"
        p.bare &= !c.eat_any(&["oclock", "hours", "hrs"]);
        halve(c, &mut clock, p);
        p.clocks.push(clock);
        true
    }

    fn time(self, c: &mut Cursor, p: &mut Phrase) -> Option<Clock> {
        let mut ahead = c.clone();
        ahead.eat_any(&["a", "an"]);
        let quarter = ahead.eat("quarter");
        let half = !quarter && ahead.eat("half");
        let found = if quarter || half {
            self.words(&mut ahead, p, if quarter { 15 } else { 30 })
        } else {
            ahead = c.clone();
            self.number(&mut ahead, p)
        };
        if found.is_some() {
            *c = ahead;
        }
        found
    }

    /// After "half" or "quarter".
    fn words(self, c: &mut Cursor, p: &mut Phrase, minutes: u32) -> Option<Clock> {
        if c.eat_any(&["past", "after", "gone"]) {
            return Some(shifted(hour(c)?, minutes, false));
        }
        if minutes == 15 {
            return c
                .eat_any(&["to", "till", "til", "before", "of", "until"])
                .then(|| hour(c))
                .flatten()
                .map(|clock| shifted(clock, 15, true));
        }
        let clock = hour(c).filter(|clock| clock.half == Half::Either)?;
        if self.locale == Locale::American {
            p.note("\"half\" before an hour was read as half past it; some mean half an hour before it");
        }
        Some(shifted(clock, 30, false))
    }

    fn number(self, c: &mut Cursor, p: &mut Phrase) -> Option<Clock> {
        let at = PREPOSITIONS.contains(&c.before());
        match *c.peek(0)? {
            Token::Clock { hour, minute, sure } => {
                c.advance(1);
                let either = !sure && (1..=11).contains(&hour);
                Some(Clock { hour, minute, half: if either { Half::Either } else { Half::Known }, midnight: hour == 24 })
                    .filter(|clock| clock.hour < 24 || clock.minute == 0)
            }
            Token::Dotted(hour, minute) if hour < 24 && minute < 60 => {
                c.advance(1);
                if !at {
                    p.note(format!("{hour}.{minute:02} was read as a time of the day"));
                }
                Some(Clock { hour, minute, half: half_of(hour), midnight: false })
            }
            // "1830", after "at"
            Token::Number(n @ 100..=2359) if at && n % 100 < 60 && n >= 1000 => {
                c.advance(1);
                Some(Clock { hour: n / 100, minute: n % 100, half: half_of(n / 100), midnight: false })
            }
            Token::Number(minutes @ 1..=59) if self.counts_minutes(c, minutes) => {
                c.advance(1);
                c.eat_any(&["minutes", "minute", "mins", "min"]);
                let before = !c.eat_any(&["past", "after", "gone"]);
                if before {
                    c.advance(1);
                }
                Some(shifted(hour(c)?, minutes, before))
            }
            _ => {
                let mut clock = hour(c)?;
                if clock.midnight || c.before() == "noon" || c.before() == "midday" {
                    return Some(clock);
                }
                if c.word(0) == "oh" || c.word(0) == "o" {
                    if let Some(Token::Number(minute @ 1..=9)) = c.peek(1) {
                        c.advance(2);
                        clock.minute = *minute;
                    }
                } else if let Some(Token::Number(minute @ 10..=59)) = c.peek(0)
                    && !self.counts_minutes(c, *minute)
                {
                    c.advance(1);
                    clock.minute = *minute;
                }
                Some(clock)
            }
        }
    }

    /// Whether the number that comes next counts minutes to or past an hour: "ten past six", "twenty five to nine". "nine to
    /// five" is a range.
    fn counts_minutes(self, c: &Cursor, minutes: u32) -> bool {
        let unit = usize::from(["minutes", "minute", "mins", "min"].contains(&c.word(1)));
        let joins = match c.word(1 + unit) {
            "past" | "after" | "gone" => true,
            "to" | "till" | "til" | "before" | "of" => unit == 1 || [5, 10, 20, 25].contains(&minutes),
            _ => false,
        };
        let hour = match c.peek(2 + unit) {
            Some(Token::Number(hour)) => (1..=23).contains(hour),
            Some(Token::Word(word)) => ["noon", "midday", "midnight"].contains(&word.as_str()),
            _ => false,
        };
        joins && hour
    }

    pub(super) fn part(self, c: &mut Cursor, p: &mut Phrase) -> bool {
        let mut ahead = c.clone();
        let which = if ahead.eat_any(&["later this", "this"]) {
            Some(0)
        } else if ahead.word(1) != "thing" && ahead.eat("last") {
            Some(-1)
        } else {
            ahead.eat_any(&["the", "at"]);
            None
        };
        if which.is_none() && ahead.eat_any(&["late tonight", "later tonight", "tonight"]) {
            let late = ahead.before() == "tonight" && c.word(0).starts_with("late") && c.word(0) != "later";
            p.put_day(Day::Offset(0), false);
            put_part(p, if late { LATE } else { TONIGHT });
            *c = ahead;
            return true;
        }
        let Some(part) = part_of(&mut ahead) else { return false };
        match which {
            Some(-1) if part.name != "night" && part.name != "evening" => return false,
            Some(days) => p.put_day(Day::Offset(days), false),
            None => {}
        }
        put_part(p, part);
        *c = ahead;
        true
    }
}

fn put_part(p: &mut Phrase, part: Part) {
    // "every night before bed": the narrower one counts
    let wide = |part: Part| matches!(part.name, "morning" | "afternoon" | "evening" | "night" | "tonight");
    let within = |inner: Part, outer: Part| !wide(inner) && wide(outer) && (outer.from..=outer.to).contains(&inner.usual);
    match p.part {
        Some(first) if first == part || within(first, part) => {}
        Some(first) if !within(part, first) => p.note(format!("\"{}\" and \"{}\" were said", first.name, part.name)),
        _ => p.part = Some(part),
    }
}

fn part_of(c: &mut Cursor) -> Option<Part> {
    if c.peek(0) == Some(&Token::Ordinal(1)) && c.word(1) == "thing" {
        c.advance(2);
        c.eat_any(&["in the morning", "the"]);
        return Part::named("first thing");
    }
    if c.eat_any(&["last thing at night", "last thing", "late in the evening", "late at night", "late evening", "late night"]) {
        return Some(LATE);
    }
    if c.eat_any(&["middle of the night", "dead of night"]) {
        return Some(DEEP);
    }
    if c.eat_any(&["close of business", "end of business", "close of play", "cob", "eob"]) {
        return Some(CLOSE);
    }
    // "the end of tomorrow": the day itself is read next
    let end_of = c.word(0) == "end" && c.word(1) == "of" && matches!(c.word(2), "today" | "tomorrow") && c.eat("end of");
    if end_of || c.eat_any(&["end of the day", "end of day", "eod"]) {
        return Part::named("end of the day");
    }
    if c.eat_any(&["early hours of the morning", "early hours", "small hours"]) {
        return Part::named("early hours");
    }
    if c.eat_any(&["breakfast time", "breakfasttime", "breakfast"]) {
        return Part::named("breakfast");
    }
    if c.eat_any(&["lunch time", "lunchtime", "lunch"]) {
        return Part::named("lunch");
    }
    if c.eat_any(&["tea time", "teatime", "tea"]) {
        return Part::named("tea");
    }
    if c.eat_any(&["dinner time", "dinnertime", "dinner", "supper time", "suppertime", "supper"]) {
        return Part::named("dinner");
    }
    if c.eat_any(&["bed time", "bedtime", "bed"]) {
        return Part::named("bedtime");
    }
    let mut ahead = c.clone();
    let degree = if ahead.eat_any(&["early in the", "early on in the", "early"]) {
        "early "
    } else if ahead.eat_any(&["late in the", "late"]) {
        "late "
    } else {
        ""
    };
    let middle = degree.is_empty() && ahead.eat_any(&["mid", "middle of the"]);
    let name =
        ["morning", "afternoon", "evening", "night"].into_iter().find(|name| ahead.eat_any(&[name, &format!("{name}s")]))?;
    *c = ahead;
    if middle {
        return Part::named(name);
    }
    match (degree, name) {
        ("late ", "evening" | "night") => Some(LATE),
        (_, "night") => Part::named("night"),
        _ => Part::named(&format!("{degree}{name}")),
    }
}

/// An hour by itself: "six", "18", "noon".
fn hour(c: &mut Cursor) -> Option<Clock> {
    let noon = Clock { hour: 12, minute: 0, half: Half::Known, midnight: false };
    if matches!(c.peek(0), Some(Token::Number(12))) && c.word(1) == "noon" {
        c.advance(2);
        return Some(noon);
    }
    if matches!(c.peek(0), Some(Token::Number(12))) && c.word(1) == "midnight" {
        c.advance(2);
        return Some(Clock { hour: 24, midnight: true, ..noon });
    }
    if c.eat_any(&["noon", "midday"]) {
        return Some(noon);
    }
    if c.eat("midnight") {
        return Some(Clock { hour: 24, midnight: true, ..noon });
    }
    let mut ahead = c.clone();
    ahead.eat("oh");
    // "five minutes before the match" and "one evening" count something
    let counts = ["second", "minute", "min", "hour", "day", "week", "month", "year", "time", "fortnight", "weekend"];
    let counted = counts.contains(&ahead.word(1).trim_end_matches('s'));
    let one = ahead.peek(0) == Some(&Token::Number(1)) && ["morning", "afternoon", "evening", "night"].contains(&ahead.word(1));
    match *ahead.peek(0)? {
        Token::Number(1) if ahead.word(1) == "of" => None,
        Token::Number(hour @ 0..=23) if !counted && (!one || c.before() == "at") => {
            let sure = ahead.at() > c.at();
            ahead.advance(1);
            *c = ahead;
            Some(Clock { hour, minute: 0, half: if sure { Half::Known } else { half_of(hour) }, midnight: false })
        }
        _ => None,
    }
}

fn half_of(hour: u32) -> Half {
    if (1..=12).contains(&hour) { Half::Either } else { Half::Known }
}

/// Minutes past an hour, or to it. "Ten to one" is still without its half of the day.
fn shifted(clock: Clock, minutes: u32, before: bool) -> Clock {
    if !before {
        return Clock { minute: minutes, hour: clock.hour % 24, midnight: false, ..clock };
    }
    let hour = match (clock.half, clock.hour) {
        (Half::Either, 1) => 12,
        (_, 0) => 23,
        (_, hour) => hour - 1,
    };
    Clock { hour, minute: 60 - minutes, midnight: false, ..clock }
}

/// "am", "pm" after a time.
fn halve(c: &mut Cursor, clock: &mut Clock, p: &mut Phrase) {
    let pm = if c.eat("am") {
        false
    } else if c.eat("pm") {
        true
    } else {
        return;
    };
    if clock.hour > 12 || clock.midnight {
        if !pm {
            p.note(format!("{}:{:02} is not in the morning: \"am\" was not used", clock.hour, clock.minute));
        }
        return;
    }
    clock.hour = clock.hour % 12 + if pm { 12 } else { 0 };
    clock.half = Half::Known;
}
