//! Reads a phrase piece by piece: days, clock times, lengths, recurrences, ranges; keeps what it could not read.
//!
//! Knows nothing of now. Each kind of piece has its reader in a file beside this one.

use super::{
    Bound, Locale,
    phrase::{Day, Half, LATE, Part, Phrase},
    words::{Cursor, Said, Token},
};

/// Reads phrases in one locale. Phrases inside phrases ("between A and B") go one level deep.
#[derive(Clone, Copy)]
pub(super) struct Reader {
    pub locale: Locale,
    pub inner: bool,
}

impl Reader {
    pub(super) fn phrase(self, said: &[Said]) -> Phrase {
        let mut c = Cursor::new(said);
        let mut p = Phrase::default();
        // a bound waits for the piece that it belongs to; without one it is part of what was not understood
        let mut pending: Option<(Bound, usize)> = None;
        let mut missed: Option<(usize, usize)> = None;
        while !c.is_done() {
            let at = c.at();
            if self.piece(&mut c, &mut p) {
                keep_missed(&mut p, said, &mut missed);
                if let Some((bound, _)) = pending.take() {
                    p.bound = bound;
                }
            } else if let Some(bound) = bound(&mut c, p.says_when() && missed.is_none()) {
                let opens = matches!(bound, Bound::Until | Bound::From | Bound::Between);
                if opens && !self.inner && self.range(&mut c, &mut p, bound) {
                    keep_missed(&mut p, said, &mut missed);
                } else if bound == Bound::Until || bound == Bound::Between {
                    missed = Some((missed.map_or(at, |(from, _)| from), c.at()));
                } else {
                    pending = Some((bound, pending.map_or(at, |(_, from)| from)));
                }
            } else if !(self.afterthought(&mut c, &mut p) || filler(&mut c)) {
                let from = pending.take().map_or(at, |(_, from)| from);
                c.advance(1);
                missed = Some((missed.map_or(from, |(from, _)| from), c.at()));
            }
        }
        if let Some((_, from)) = pending {
            missed = Some((missed.map_or(from, |(from, _)| from), said.len()));
        }
        keep_missed(&mut p, said, &mut missed);
        grade(&mut p);
        // "the night before my flight" is no night that we know
        let only_part = p.clocks.is_empty() && !p.has_day() && p.repeat.is_none() && p.lapse.is_none();
        if only_part && p.unknown.iter().any(|words| words.starts_with("before ") || words.starts_with("after ")) {
            p.part = None;
        }
        // nor is "the red one" a time
        if p.bare && p.part.is_none() && p.clocks.len() == 1 && !p.has_day() && p.repeat.is_none() && !p.unknown.is_empty() {
            p.clocks.clear();
        }
        if !p.shift.is_zero() && !p.has_day() && !p.has_time() {
            p.unknown.push(said.iter().map(|said| said.text.as_str()).collect::<Vec<_>>().join(" "));
            p.shift = super::phrase::Lapse::default();
        }
        p
    }

    /// One piece that says when, by whichever reader takes it.
    pub(super) fn piece(self, c: &mut Cursor, p: &mut Phrase) -> bool {
        now(c, p) || self.repeat(c, p) || self.lapse(c, p) || self.part(c, p) || self.day(c, p) || self.clock(c, p) || vague(c, p)
    }

    /// "between two and four", "from monday to friday", "until the end of june".
    fn range(self, c: &mut Cursor, p: &mut Phrase, bound: Bound) -> bool {
        let inner = Reader { inner: true, ..self };
        let rest = c.rest();
        if bound == Bound::Until {
            let end = inner.phrase(rest);
            if !end.says_when() {
                return false;
            }
            p.unknown.extend(end.unknown.iter().cloned());
            put_end(p, end);
            c.advance(rest.len());
            return true;
        }
        let joins: &[&str] = if bound == Bound::Between { &["and"] } else { &["to", "until", "till", "til", "through"] };
        for split in 1..rest.len() {
            let joined = matches!(&rest[split].token, Token::Word(word) if joins.contains(&word.as_str()));
            if !joined || split + 1 >= rest.len() {
                continue;
            }
            let (start, mut end) = (inner.phrase(&rest[..split]), inner.phrase(&rest[split + 1..]));
            if !start.says_when() || !start.unknown.is_empty() || !end.says_when() {
                continue;
            }
            p.unknown.append(&mut end.unknown);
            p.notes.extend(start.notes.iter().cloned());
            p.clocks.extend(start.clocks.iter().copied());
            p.part = p.part.or(start.part);
            p.now |= start.now;
            p.lapse = p.lapse.or(start.lapse);
            if start.has_day() {
                p.day = start.day.clone();
                p.weekdays = start.weekdays.clone();
                p.which = start.which;
                p.shift = start.shift;
            }
            if p.repeat.is_none() {
                p.repeat = start.repeat.clone().or(end.repeat.take());
            }
            put_end(p, end);
            c.advance(rest.len());
            return true;
        }
        false
    }

    /// What is said after a piece and changes how it is meant: "or so", "at the latest".
    fn afterthought(self, c: &mut Cursor, p: &mut Phrase) -> bool {
        if matches!(c.word(0), "early" | "late") {
            p.early = Some(c.word(0) == "early");
            c.advance(1);
        } else if c.eat_any(&["at the latest", "latest"]) {
            p.bound = Bound::By;
        } else if c.eat_any(&["or so", "ish", "or thereabouts"]) {
            p.bound = Bound::Around;
        } else if p.says_when() && c.eat_any(&["onwards", "onward", "or later", "or after", "at the earliest"]) {
            p.bound = Bound::From;
        } else {
            return false;
        }
        true
    }
}

/// The end of a range. A day or a half of the day that was said with the end alone holds for both: "two to four tomorrow",
/// "1 to 3 pm".
fn put_end(p: &mut Phrase, mut end: Phrase) {
    p.notes.append(&mut end.notes);
    if p.has_time() && end.has_time() && end.has_day() && !p.has_day() && p.repeat.is_none() {
        p.day = end.day.take();
        p.weekdays = std::mem::take(&mut end.weekdays);
        p.which = end.which;
        p.shift = std::mem::take(&mut end.shift);
    }
    if let (Some(start), Some(stop)) = (p.clocks.first_mut(), end.clocks.first())
        && start.half == Half::Either
        && stop.half == Half::Known
        && p.part.is_none()
    {
        let stop = stop.hour * 60 + stop.minute;
        let morning = start.hour % 12 * 60 + start.minute;
        if morning < stop {
            start.hour = if morning + 720 < stop { start.hour % 12 + 12 } else { start.hour % 12 };
            start.half = Half::Known;
        } else if stop < 720 {
            // "11 to 1 am" begins in the evening.
            start.hour = start.hour % 12 + 12;
            start.half = Half::Known;
        }
    }
    p.end = Some(Box::new(end));
}

/// "early tomorrow morning", "late on friday": how early or late is said apart from the part of the day.
fn grade(p: &mut Phrase) {
    let Some(early) = p.early.take() else { return };
    let degree = if early { "early" } else { "late" };
    match p.part {
        Some(part) => {
            let graded = Part::named(&format!("{degree} {}", part.name));
            let late = (!early && matches!(part.name, "evening" | "night" | "tonight")).then_some(LATE);
            p.part = graded.or(late).or(Some(part));
        }
        None if p.clocks.is_empty() && p.has_day() => {
            p.part = if early { Part::named("early morning") } else { Some(LATE) };
            p.note(format!("\"{degree}\" was read as a part of the day"));
        }
        None => p.unknown.push(degree.to_owned()),
    }
}

fn keep_missed(p: &mut Phrase, said: &[Said], missed: &mut Option<(usize, usize)>) {
    if let Some((from, to)) = missed.take() {
        p.unknown.push(said[from..to].iter().map(|said| said.text.as_str()).collect::<Vec<_>>().join(" "));
    }
}

fn now(c: &mut Cursor, p: &mut Phrase) -> bool {
    let said = c.eat_any(&[
        "right now",
        "right away",
        "straight away",
        "straightaway",
        "as soon as possible",
        "asap",
        "at once",
        "immediately",
        "now",
    ]);
    p.now |= said;
    said
}

/// Words that mean a time and name none.
fn vague(c: &mut Cursor, p: &mut Phrase) -> bool {
    for words in [
        "in a bit",
        "in a little bit",
        "in a while",
        "in a little while",
        "in a moment",
        "in a jiffy",
        "in a sec",
        "later on",
        "later",
        "soon",
        "eventually",
        "someday",
        "at some point",
        "some time",
        "sometime",
        "one of these days",
    ] {
        if !(words == "soon" && c.before() == "as") && c.eat(words) {
            if !p.vague.iter().any(|said| said == words) {
                p.vague.push(words.to_owned());
            }
            return true;
        }
    }
    false
}

/// `open` if something was said that "to" can follow: "nine to five", not "before i go to bed".
fn bound(c: &mut Cursor, open: bool) -> Option<Bound> {
    if open && c.eat_any(&["to", "through"]) {
        return Some(Bound::Until);
    }
    let kinds: [(Bound, &[&str]); 7] = [
        (Bound::By, &["by", "no later than", "not later than", "due"]),
        (Bound::After, &["after", "any time after", "anytime after", "not before", "no earlier than", "past"]),
        (Bound::Before, &["before"]),
        (Bound::Until, &["up until", "up to", "until", "till", "til"]),
        (Bound::From, &["from", "starting from", "starting on", "starting", "beginning on", "as of", "as from"]),
        (Bound::Between, &["between"]),
        (Bound::Around, &["around", "about", "roughly", "approximately", "circa"]),
    ];
    kinds.into_iter().find(|(_, words)| c.eat_any(words)).map(|(bound, _)| bound)
}

/// Words that say nothing by themselves.
fn filler(c: &mut Cursor) -> bool {
    c.eat_any(&[
        "on the dot",
        "at",
        "on",
        "in",
        "the",
        "a",
        "an",
        "of",
        "for",
        "and",
        "during",
        "over",
        "throughout",
        "within",
        "just",
        "shortly",
        "right",
        "straight",
        "exactly",
        "precisely",
        "sharp",
        "promptly",
        "any time",
        "anytime",
        "some",
        "please",
        "then",
        "probably",
        "maybe",
        "again",
        "that",
        "is",
        "this",
    ])
}

impl Phrase {
    /// Keeps a day. A second one after "and" is the end of a stretch; any other second one is reported.
    pub(super) fn put_day(&mut self, day: Day, joined: bool) {
        if self.day.is_none() {
            self.day = Some(day);
        } else if joined && self.end.is_none() {
            self.end = Some(Box::new(Phrase { day: Some(day), ..Phrase::default() }));
        } else {
            self.note("more than one day was said: the first is taken");
        }
    }
}
