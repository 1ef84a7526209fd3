//! Calendar arithmetic: where a week, a month, a season or a named day lies, seen from a day.
//!
//! Knows no phrases and no clocks. Everything is checked: a date that no calendar has is `None`.

use jiff::{
    Span, ToSpan,
    civil::{Date, Weekday},
};

use super::{
    Locale,
    phrase::{Edge, Holiday, Lapse, Period, Which},
};

/// First and last day.
pub(super) type Days = (Date, Date);

pub(super) fn plus(date: Date, lapse: Lapse) -> Option<Date> {
    let span = Span::new().try_months(lapse.months).ok()?.try_days(lapse.days).ok()?;
    date.checked_add(span).ok()
}

pub(super) fn plus_days(date: Date, days: i64) -> Option<Date> {
    plus(date, Lapse { days, ..Lapse::default() })
}

/// The first day of the week that `date` is in.
pub(super) fn week_start(date: Date, locale: Locale) -> Option<Date> {
    let back = match locale {
        Locale::British => date.weekday().to_monday_zero_offset(),
        Locale::American => date.weekday().to_sunday_zero_offset(),
    };
    plus_days(date, -i64::from(back))
}

/// The day of that name in the week that begins at `start`.
pub(super) fn in_week(start: Date, weekday: Weekday) -> Option<Date> {
    plus_days(start, i64::from(weekday.since(start.weekday())))
}

/// The next day of that name after `date`.
pub(super) fn next_weekday(date: Date, weekday: Weekday) -> Option<Date> {
    date.nth_weekday(1, weekday).ok()
}

/// The nth (from 1; -1 is the last) day of that name in the month of `first`.
pub(super) fn nth_in_month(first: Date, n: i8, weekday: Weekday) -> Option<Date> {
    first.nth_weekday_of_month(n, weekday).ok()
}

/// The next time this day of the year comes, today included. The 29th of February waits for its year.
pub(super) fn next_date(today: Date, month: i8, day: i8) -> Option<Date> {
    (0..=8).find_map(|ahead| Date::new(today.year().checked_add(ahead)?, month, day).ok().filter(|date| *date >= today))
}

/// The next month that has this day, today included.
pub(super) fn next_day_of_month(today: Date, day: i8) -> Option<Date> {
    let first = today.first_of_month();
    (0..=4).find_map(|ahead| {
        let month = first.checked_add(ahead.months()).ok()?;
        Date::new(month.year(), month.month(), day).ok().filter(|date| *date >= today)
    })
}

/// Where a period lies, seen from `today`. `None` if no calendar has it.
pub(super) fn period(period: Period, today: Date, locale: Locale) -> Option<Days> {
    let months = |first: Date, count: i64| -> Option<Days> {
        let next = first.checked_add(Span::new().try_months(count).ok()?).ok()?;
        Some((first, plus_days(next, -1)?))
    };
    let shifted = |first: Date, by: i64| plus(first, Lapse { months: by, ..Lapse::default() });
    match period {
        Period::Week(ahead) => {
            let start = plus_days(week_start(today, locale)?, ahead.checked_mul(7)?)?;
            Some((start, plus_days(start, 6)?))
        }
        Period::Month(ahead) => months(shifted(today.first_of_month(), ahead)?, 1),
        Period::Quarter(ahead) => {
            let first = Date::new(today.year(), (today.month() - 1) / 3 * 3 + 1, 1).ok()?;
            months(shifted(first, ahead.checked_mul(3)?)?, 3)
        }
        Period::Year(ahead) => months(shifted(today.first_of_year(), ahead.checked_mul(12)?)?, 12),
        Period::InYear(year) => months(Date::new(year, 1, 1).ok()?, 12),
        Period::Named { month, year: Some(year), .. } => months(Date::new(year, month, 1).ok()?, 1),
        Period::Named { month, which, .. } => months(running(today, month, 1, which)?, 1),
        Period::Season { month, which } => months(running(today, month, 3, which)?, 3),
    }
}

/// The first day of a run of months that comes every year: the one that is running or comes next, the one after it, or
/// the one before.
fn running(today: Date, month: i8, months: i64, which: Which) -> Option<Date> {
    let coming = (-1..=1).find_map(|ahead| {
        let first = Date::new(today.year().checked_add(ahead)?, month, 1).ok()?;
        let end = plus(first, Lapse { months, ..Lapse::default() })?;
        (end > today).then_some(first)
    })?;
    let years = match which {
        // "next june" in june is next year's; before june it is the coming one
        Which::Next if coming <= today => 1,
        Which::Last => -1,
        _ => 0,
    };
    plus(coming, Lapse { months: years * 12, ..Lapse::default() })
}

/// The piece of a period that is meant. A month is in thirds of ten days.
pub(super) fn edge(days: Days, edge: Edge) -> Option<Days> {
    let (start, end) = days;
    let length = i64::from(start.until(end).ok()?.get_days()) + 1;
    let third = |from: i64, to: i64| Some((plus_days(start, from)?, plus_days(start, to)?));
    match edge {
        Edge::Whole => Some(days),
        Edge::Start => Some((start, start)),
        Edge::End => Some((end, end)),
        Edge::Middle => third((length - 1) / 2, (length - 1) / 2),
        Edge::Early => third(0, length / 3 - 1),
        Edge::Mid => third(length / 3, length / 3 * 2 - 1),
        Edge::Late => Some((plus_days(start, length / 3 * 2)?, end)),
        Edge::WeekNumber(-1) => Some((plus_days(end, -6)?, end)),
        Edge::WeekNumber(n) => {
            let from = (i64::from(n) - 1) * 7;
            (from + 6 < length).then(|| third(from, from + 6))?
        }
    }
}

/// The day of that name in a year.
pub(super) fn holiday_in(holiday: Holiday, year: i16, locale: Locale) -> Option<Date> {
    match holiday {
        Holiday::Fixed(month, day) => Date::new(year, month, day).ok(),
        Holiday::Nth(n, weekday, month) => nth_in_month(Date::new(year, month, 1).ok()?, n, weekday),
        Holiday::Easter(days) => plus_days(easter(year)?, days),
        Holiday::MothersDay => match locale {
            Locale::British => plus_days(easter(year)?, -21),
            Locale::American => nth_in_month(Date::new(year, 5, 1).ok()?, 2, Weekday::Sunday),
        },
    }
}

/// The next time it comes, today included.
pub(super) fn next_holiday(holiday: Holiday, today: Date, locale: Locale) -> Option<Date> {
    (0..=8).find_map(|ahead| holiday_in(holiday, today.year().checked_add(ahead)?, locale).filter(|date| *date >= today))
}

/// Easter Sunday of the Gregorian calendar, by Gauss' rule in its usual complete form: the first Sunday after the full
/// moon (of the tables, not of the sky) on or after 21 March.
fn easter(year: i16) -> Option<Date> {
    let y = i32::from(year);
    let golden = y.rem_euclid(19);
    let century = y.div_euclid(100);
    // days from 21 March to the full moon, with the corrections for leap centuries and the moon's own drift
    let moon = (19 * golden + century - century.div_euclid(4) - (8 * century + 13).div_euclid(25) + 15).rem_euclid(30);
    let moon = moon - i32::from(moon == 29 || (moon == 28 && golden > 10));
    let full = plus_days(Date::new(year, 3, 21).ok()?, i64::from(moon))?;
    next_weekday(full, Weekday::Sunday)
}
