//! A phrase meets now: days and clock times become points in time, in the speaker's zone.
//!
//! Owns the rules for hours that are not said and for clocks that are put forward and back.

use std::ops::Range;

use jiff::{Span, Zoned, civil::Date, tz::AmbiguousOffset};

use super::{
    Bound, Context, Grain, Point, Purpose, Resolved,
    calendar::{plus, plus_days},
    days::{Days, days},
    phrase::{Clock, Day, Half, Lapse, Part, Period, Phrase, TONIGHT},
    repeat,
};

/// Hours in which people are awake, in minutes after midnight.
const AWAKE: Range<i32> = 7 * 60..24 * 60;
/// Hours in which they get up.
const RISING: Range<i32> = 4 * 60..12 * 60;
const PAST: &str = "already past";
const HALVES: &str = "the other half of the day";

pub(super) fn settle(phrase: &Phrase, context: &Context) -> Resolved {
    let mut settler = Settler { now: &context.now, context, notes: Vec::new() };
    let mut bound = phrase.bound;
    let (mut start, mut grain, mut rule) = (None, Grain::Day, None);
    let mut stop = None;
    if phrase.repeat.is_some() {
        (start, stop, rule) = repeat::settle(phrase, &mut settler);
    } else if phrase.says_when() {
        match settler.point(phrase) {
            Ok((point, end, found)) => {
                (start, stop, grain) = (Some(point), end.map(Point::On), found);
            }
            Err(why) => settler.notes.push(why),
        }
    }
    if let (Some(end), None) = (&phrase.end, &rule) {
        stop = settler.end(end, start.as_ref(), start.is_some());
        bound = if start.is_none() { Bound::Until } else { Bound::Between };
    }
    if let (Some(from), Some(to)) = (&start, &stop)
        && match (from, to) {
            (Point::At(from), Point::At(to)) => to < from,
            (from, to) => to.date() < from.date(),
        }
    {
        settler.notes.push("the end is before the start".to_owned());
    }
    if matches!(start, Some(Point::At(_))) {
        grain = Grain::Time;
    }
    let mut ambiguous = settler.notes;
    ambiguous.extend(phrase.notes.iter().cloned());
    if !phrase.has_day() && start.is_none() && stop.is_none() {
        ambiguous.extend(phrase.vague.iter().map(|words| format!("no time was said: {words}")));
    }
    ambiguous.extend(phrase.unknown.iter().map(|words| format!("not understood: {words}")));
    let mut seen = Vec::new();
    ambiguous.retain(|note| {
        !seen.contains(note) && {
            seen.push(note.clone());
            true
        }
    });
    Resolved {
        iso: start.as_ref().map(Point::iso),
        end: stop.as_ref().map(Point::iso),
        recurrence: rule.as_ref().map(repeat::Rule::to_string),
        ambiguous,
        grain,
        bound,
        start,
        stop,
        rule,
    }
}

/// What a phrase is settled against, and what had to be said about it.
pub(super) struct Settler<'a> {
    pub now: &'a Zoned,
    pub context: &'a Context,
    pub notes: Vec<String>,
}

impl Settler<'_> {
    /// The point, the last day of a stretch, and how exact that is.
    fn point(&mut self, phrase: &Phrase) -> Result<(Point, Option<Date>, Grain), String> {
        let outside = || "no such time in the calendar".to_owned();
        if phrase.lapse.is_some_and(|lapse| lapse.months < 0 || lapse.days < 0 || lapse.seconds < 0) {
            self.notes.push(PAST.to_owned());
        }
        if phrase.now {
            return Ok((Point::At(self.now.clone()), None, Grain::Time));
        }
        if let Some(lapse) = phrase.lapse {
            if lapse.is_calendar() {
                return Ok((Point::On(plus(self.now.date(), lapse).ok_or_else(outside)?), None, Grain::Day));
            }
            let then = pass(self.now, lapse).ok_or_else(outside)?;
            if phrase.has_time() || phrase.has_day() {
                self.notes.push("a length and another time were said: the length is taken".to_owned());
            }
            return Ok((Point::At(then), None, Grain::Time));
        }
        let today = self.now.date();
        let mut days = days(phrase, today, self.context.locale)?;
        let timed = phrase.has_time() || phrase.shift.seconds != 0;
        if !timed {
            if days.start < today && days.end.is_none_or(|end| end < today) {
                self.notes.push(PAST.to_owned());
            }
            self.notes.append(&mut days.notes);
            self.notes.extend(days.others.iter().map(|(date, why)| format!("{date}: {why}")));
            return Ok(match (phrase.bound, days.end) {
                (Bound::By | Bound::Before | Bound::From, Some(_)) => (Point::On(days.start), None, Grain::Day),
                (Bound::After, Some(end)) => (Point::On(end), None, Grain::Day),
                (_, end) => (Point::On(days.start), end, days.grain),
            });
        }
        let mut time = if phrase.has_day() { self.timed(phrase, &days) } else { self.next(phrase) };
        if let Some(found) = &time
            && found < self.now
            && days.rolls
            && let Some(tomorrow) = plus_days(today, 1)
            && let Ok(later) = super::days::days(phrase, tomorrow, self.context.locale)
        {
            self.notes.clear();
            time = self.timed(phrase, &later);
            days = later;
        }
        let mut time = time.ok_or_else(outside)?;
        if phrase.shift.seconds != 0 {
            time = pass(&time, Lapse { seconds: phrase.shift.seconds, ..Lapse::default() }).ok_or_else(outside)?;
        }
        if time < *self.now {
            self.notes.push(PAST.to_owned());
        }
        self.notes.append(&mut days.notes);
        if days.grain == Grain::Stretch {
            self.notes.push("no day was said: the first is taken".to_owned());
        }
        Ok((Point::At(time), None, Grain::Time))
    }

    /// A time on a day that was said.
    fn timed(&mut self, phrase: &Phrase, days: &Days) -> Option<Zoned> {
        let (minutes, other) = self.on_day(phrase, days.start)?;
        let mut time = self.at(days.start, minutes)?;
        let today = days.start == self.now.date();
        if phrase.clocks.is_empty()
            && today
            && time < *self.now
            && let Some(part) = phrase.part
            && self.at(days.start, part.to).is_some_and(|end| end > *self.now)
        {
            time = self.now.clone();
            self.notes.push(format!("{} has begun", part.name));
        }
        if let Some((minutes, why)) = other
            && let Some(other) = self.quietly(days.start, minutes).filter(|other| other > self.now && *other != time)
        {
            self.reading(&other, why);
        }
        for (date, why) in &days.others {
            // a time that was not said is chosen anew on another day
            let minutes = self.on_day(phrase, *date).map_or(minutes, |(minutes, _)| minutes);
            if let Some(other) = self.quietly(*date, minutes).filter(|other| other > self.now) {
                self.reading(&other, why);
            }
        }
        Some(time)
    }

    /// The minutes after midnight on a day, and the other reading.
    fn on_day(&mut self, phrase: &Phrase, date: Date) -> Option<(i32, Option<(i32, &'static str)>)> {
        let Some(clock) = self.clock(phrase) else {
            return phrase.part.map(|part| (part.usual, None)).or((phrase.shift.seconds != 0).then_some((0, None)));
        };
        let choices = self.choices(clock, phrase.part);
        let first = *choices.first()?;
        if choices.len() == 1 {
            let night = phrase.part.is_some_and(|part| part.to >= 24 * 60);
            let other = (clock.midnight && !night).then_some((0, "the midnight that begins the day"));
            return Some((first, other));
        }
        let ahead = |minutes: &i32| date != self.now.date() || self.quietly(date, *minutes).is_some_and(|time| time > *self.now);
        let likely = self.likely_hours();
        let waking = |minutes: &&i32| likely.contains(*minutes);
        let chosen = choices
            .iter()
            .filter(waking)
            .find(|minutes| ahead(minutes))
            .or_else(|| choices.iter().find(|minutes| ahead(minutes)))
            .or_else(|| choices.iter().find(waking))
            .copied()
            .unwrap_or(first);
        let other = choices.into_iter().find(|minutes| *minutes != chosen).map(|minutes| (minutes, HALVES));
        Some((chosen, other))
    }

    /// A time without a day: the next one. Without its half of the day: the next one in waking hours.
    fn next(&mut self, phrase: &Phrase) -> Option<Zoned> {
        let choices = match (self.clock(phrase), phrase.part) {
            (Some(clock), part) => self.choices(clock, part),
            (None, Some(part)) => vec![part.usual],
            (None, None) => return None,
        };
        if let (true, Some(part)) = (phrase.clocks.is_empty(), phrase.part) {
            // "in the morning", said in the morning, is the next morning's usual hour unless that is still to come
            return self.soonest(part.usual);
        }
        let mut found: Vec<(Zoned, i32)> =
            choices.iter().filter_map(|minutes| Some((self.soonest_quietly(*minutes)?, *minutes))).collect();
        found.sort();
        let likely = self.likely_hours();
        if phrase.end.is_some() && found.len() > 1 {
            // "from nine to five" is a day's
            found.sort_by_key(|(_, minutes)| (!likely.contains(minutes), *minutes));
        } else {
            // Likely hours come before the others, whatever their day.
            found.sort_by_key(|(_, minutes)| !likely.contains(minutes));
        }
        let (_, minutes) = found.first()?.clone();
        let time = self.soonest(minutes)?;
        if let Some((other, _)) = found.get(1) {
            self.reading(&other.clone(), HALVES);
        }
        Some(time)
    }

    /// The end of a range that begins at `start`.
    pub(super) fn end(&mut self, end: &Phrase, start: Option<&Point>, ranged: bool) -> Option<Point> {
        if let (false, Some(clock)) = (end.has_day(), self.clock(end)) {
            match start {
                Some(Point::At(from)) => {
                    let mut later = Settler { now: from, context: self.context, notes: Vec::new() };
                    let choices = later.choices(clock, end.part);
                    let found = choices.iter().filter_map(|minutes| later.soonest_quietly(*minutes)).min();
                    return found.map(Point::At);
                }
                Some(Point::On(date)) => {
                    let (minutes, _) = self.on_day(end, *date)?;
                    return self.at(*date, minutes).map(Point::At);
                }
                None => {}
            }
        }
        // names of days are counted from the start, "tomorrow" and "this week" from now
        let from_now = matches!(end.day, Some(Day::Offset(_) | Day::In(_) | Day::Weekend(_)))
            || matches!(
                end.day,
                Some(Day::Stretch(Period::Week(_) | Period::Month(_) | Period::Quarter(_) | Period::Year(_), _))
            );
        let from = match start {
            Some(Point::At(time)) if !from_now => time.clone(),
            Some(Point::On(date)) if !from_now => date.to_zoned(self.now.time_zone().clone()).ok()?,
            _ => self.now.clone(),
        };
        let mut later = Settler { now: &from, context: self.context, notes: Vec::new() };
        let found = later.point(end);
        let notes = std::mem::take(&mut later.notes);
        self.notes.extend(notes.into_iter().map(|note| format!("end: {note}")));
        match found {
            // "until march" ends where march begins, "from may to july" where july ends
            Ok((point, Some(last), _)) => Some(if ranged { Point::On(last) } else { point }),
            Ok((point, None, _)) => Some(point),
            Err(why) => {
                self.notes.push(format!("end: {why}"));
                None
            }
        }
    }

    /// The clock time that was said; more than one is reported.
    fn clock(&mut self, phrase: &Phrase) -> Option<Clock> {
        if phrase.clocks.len() > 1 {
            let note = "more than one time was said: the first is taken".to_owned();
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        phrase.clocks.first().copied()
    }

    /// The minutes after midnight that a clock time can mean, earliest first. From 1440 on it is the next day.
    pub(super) fn choices(&mut self, clock: Clock, part: Option<Part>) -> Vec<i32> {
        let minutes = clock.hour as i32 * 60 + clock.minute as i32;
        let at_night = part.filter(|part| part.to >= 24 * 60);
        match (clock.half, part) {
            (Half::Known, _) if clock.midnight => vec![24 * 60],
            (Half::Known, _) if at_night.is_some() && minutes < 5 * 60 => vec![minutes + 24 * 60],
            (Half::Known, Some(part)) => {
                if !(part.from..=part.to).contains(&minutes) && part != TONIGHT {
                    self.notes.push(format!("{}:{:02} and \"{}\" do not go together", clock.hour, clock.minute, part.name));
                }
                vec![minutes]
            }
            (Half::Known, None) => vec![minutes],
            (Half::Either, Some(part)) => {
                let early = clock.hour as i32 % 12 * 60 + clock.minute as i32;
                let all = [early, early + 12 * 60, early + 24 * 60];
                let fit: Vec<i32> = all.into_iter().filter(|minutes| (part.from..=part.to).contains(minutes)).collect();
                if let Some(only) = fit.first() {
                    return vec![*only];
                }
                self.notes.push(format!("{}:{:02} and \"{}\" do not go together", clock.hour, clock.minute, part.name));
                all.into_iter().min_by_key(|minutes| (minutes - part.usual).abs()).into_iter().collect()
            }
            // noon, or the midnight after it
            (Half::Either, None) if clock.hour == 12 => vec![minutes, minutes + 12 * 60],
            (Half::Either, None) => vec![minutes, minutes + 12 * 60],
        }
    }

    /// The next time the clock shows this, with what has to be said about it.
    fn soonest(&mut self, minutes: i32) -> Option<Zoned> {
        let time = self.soonest_quietly(minutes)?;
        for days in -2..=2 {
            let date = plus_days(self.now.date(), days)?;
            if self.quietly(date, minutes).as_ref() == Some(&time) {
                return self.at(date, minutes);
            }
        }
        Some(time)
    }

    /// The next time the clock shows this. Of a time that comes twice the second counts when the first is over.
    fn soonest_quietly(&self, minutes: i32) -> Option<Zoned> {
        (-2..=2).find_map(|days| {
            let date = plus_days(self.now.date(), days)?;
            let first = self.quietly(date, minutes)?;
            if first > *self.now {
                return Some(first);
            }
            second(&first).filter(|second| second > self.now)
        })
    }

    /// That time on that day. A skipped time is moved forward, the first of two is taken; both are reported.
    pub(super) fn at(&mut self, date: Date, minutes: i32) -> Option<Zoned> {
        let time = self.quietly(date, minutes)?;
        let (date, hour, minute) = civil(date, minutes)?;
        let wanted = date.at(hour, minute, 0, 0);
        let zone = self.now.time_zone();
        match zone.to_ambiguous_zoned(wanted).offset() {
            AmbiguousOffset::Unambiguous { .. } => {}
            AmbiguousOffset::Gap { .. } => {
                let shown = time.strftime("%H:%M");
                self.notes.push(format!("{wanted} does not exist, as the clocks go forward: moved to {shown}"));
            }
            AmbiguousOffset::Fold { .. } => {
                if let Some(second) = second(&time) {
                    self.reading(&second, "this time comes twice, as the clocks go back: the first is taken");
                }
            }
        }
        Some(time)
    }

    pub(super) fn quietly(&self, date: Date, minutes: i32) -> Option<Zoned> {
        let (date, hour, minute) = civil(date, minutes)?;
        self.now.time_zone().to_ambiguous_zoned(date.at(hour, minute, 0, 0)).compatible().ok()
    }

    pub(super) fn reading(&mut self, other: &Zoned, why: &str) {
        let note = format!("{}: {why}", Point::At(other.clone()).iso());
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    /// Hours that are meant where the half of the day is not said, in minutes after midnight.
    const fn likely_hours(&self) -> Range<i32> {
        match self.context.purpose {
            Purpose::Any => AWAKE,
            Purpose::Waking => RISING,
        }
    }

    /// The first of these that is in likely hours, else the first; and the other.
    pub(super) fn usual(&self, choices: &[i32]) -> Option<(i32, Option<i32>)> {
        let likely = self.likely_hours();
        let chosen = choices.iter().find(|minutes| likely.contains(minutes)).or(choices.first()).copied()?;
        Some((chosen, choices.iter().copied().find(|minutes| *minutes != chosen)))
    }
}

/// The day and the clock time of minutes after a midnight, which may be the next day's.
fn civil(date: Date, minutes: i32) -> Option<(Date, i8, i8)> {
    let date = plus_days(date, i64::from(minutes.div_euclid(24 * 60)))?;
    let minutes = minutes.rem_euclid(24 * 60);
    Some((date, i8::try_from(minutes / 60).ok()?, i8::try_from(minutes % 60).ok()?))
}

/// The same clock time, after the clocks were put back.
fn second(first: &Zoned) -> Option<Zoned> {
    let later = first.time_zone().to_ambiguous_zoned(first.datetime()).later().ok()?;
    (later > *first).then_some(later)
}

/// Months and days of the calendar, then seconds that pass.
fn pass(from: &Zoned, lapse: Lapse) -> Option<Zoned> {
    let days = Span::new().try_months(lapse.months).ok()?.try_days(lapse.days).ok()?;
    let seconds = Span::new().try_seconds(lapse.seconds).ok()?;
    from.checked_add(days).ok()?.checked_add(seconds).ok()
}
