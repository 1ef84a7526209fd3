//! The short text of a request: "call mum tomorrow 18:00".

use jiff::civil::Weekday;

use super::{Bound, Context, Locale, Point, Resolved, days::name, names::MONTHS, phrase::Every, repeat::Rule};

/// A task and its time in few words: the day from today, the time in 24 hours, a recurrence in words. `said` is the time phrase
/// as it was said; it stands in where it could not be resolved.
pub fn converted(task: Option<&str>, said: Option<&str>, when: Option<&Resolved>, context: &Context) -> String {
    let words = when.map(|when| words(when, context)).filter(|words| !words.is_empty());
    let parts = [task.map(str::to_owned), words.or_else(|| said.map(str::to_owned))];
    parts.into_iter().flatten().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" ")
}

fn words(when: &Resolved, context: &Context) -> String {
    let mut parts = Vec::new();
    if let Some(rule) = &when.rule {
        parts.push(often(rule, context));
        if rule.hours.is_empty() {
            if let Some(Point::At(time)) = &when.start {
                let sub_day = matches!(rule.every, Every::Minute | Every::Hour);
                parts.extend((!sub_day).then(|| time.strftime("%H:%M").to_string()));
            }
        } else {
            let minute = rule.minute.unwrap_or_default();
            parts.push(list(rule.hours.iter().map(|hour| format!("{hour:02}:{minute:02}"))));
        }
        if let Some(stop) = &when.stop {
            parts.push(format!("until {}", point(stop, None, true, context)));
        }
        return parts.join(" ");
    }
    // "monday to 15 may" mixes two ways of counting
    let named = when.start.iter().chain(&when.stop).all(|point| ahead(point, context) <= 6);
    match (&when.start, &when.stop) {
        (Some(start), None) => {
            if when.bound != Bound::At {
                parts.push(when.bound.word().to_owned());
            }
            parts.push(point(start, None, named, context));
        }
        (Some(start), Some(stop)) => {
            parts.push(point(start, None, named, context));
            if start.date() != stop.date() || matches!(stop, Point::At(_)) {
                parts.push("to".to_owned());
                parts.push(point(stop, Some(start), named, context));
            }
        }
        (None, Some(stop)) => parts.push(format!("until {}", point(stop, None, true, context))),
        (None, None) => {}
    }
    parts.join(" ")
}

/// A day and a time; the day is left out where the start has said it. `named` allows the name of a day of this week.
fn point(point: &Point, after: Option<&Point>, named: bool, context: &Context) -> String {
    let same_day = after.is_some_and(|start| start.date() == point.date());
    match point {
        Point::On(_) => day(point, named, context),
        Point::At(time) if same_day => time.strftime("%H:%M").to_string(),
        Point::At(time) => format!("{} {}", day(point, named, context), time.strftime("%H:%M")),
    }
}

/// Days from today.
fn ahead(point: &Point, context: &Context) -> i32 {
    context.now.date().until(point.date()).map(|span| span.get_days()).unwrap_or(i32::MAX)
}

fn day(point: &Point, named: bool, context: &Context) -> String {
    let date = point.date();
    match ahead(point, context) {
        0 => "today".to_owned(),
        1 => "tomorrow".to_owned(),
        -1 => "yesterday".to_owned(),
        2..=6 if named => name(date.weekday()).to_owned(),
        _ => {
            let text = day_of_year(date.month(), date.day(), context.locale);
            if date.year() == context.now.year() { text } else { format!("{text} {}", date.year()) }
        }
    }
}

fn day_of_year(month: i8, day: i8, locale: Locale) -> String {
    let month = month_name(month);
    match locale {
        Locale::British => format!("{day} {month}"),
        Locale::American => format!("{month} {day}"),
    }
}

fn month_name(month: i8) -> &'static str {
    usize::try_from(month - 1).ok().and_then(|at| MONTHS.get(at)).copied().unwrap_or_default()
}

/// "every monday and thursday", "every 2 weeks on friday", "monthly on the 15th".
fn often(rule: &Rule, context: &Context) -> String {
    let unit = match rule.every {
        Every::Minute => "minute",
        Every::Hour => "hour",
        Every::Day => "day",
        Every::Week => "week",
        Every::Month => "month",
        Every::Year => "year",
    };
    let every = match rule.interval {
        1 => format!("every {unit}"),
        2 => format!("every other {unit}"),
        n => format!("every {n} {unit}s"),
    };
    let days: Vec<Weekday> = rule.days.iter().map(|(_, day)| *day).collect();
    let plain = rule.days.iter().all(|(n, _)| *n == 0);
    if plain && !days.is_empty() {
        let named = match days.as_slice() {
            [Weekday::Monday, Weekday::Tuesday, Weekday::Wednesday, Weekday::Thursday, Weekday::Friday] => "weekday".to_owned(),
            [Weekday::Saturday, Weekday::Sunday] => "weekend".to_owned(),
            days => list(days.iter().map(|day| name(*day).to_owned())),
        };
        return match (rule.interval, days.len()) {
            (1, _) => format!("every {named}"),
            (2, 1) => format!("every other {named}"),
            _ => format!("{every} on {named}"),
        };
    }
    let which = match (rule.days.first(), rule.month_day) {
        (Some((-1, day)), _) => format!("last {}", name(*day)),
        (Some((n, day)), _) => format!("{} {}", ordinal(*n), name(*day)),
        (None, Some(-1)) => "last day".to_owned(),
        (None, Some(day)) => match rule.month {
            Some(month) => return format!("{every} on {}", day_of_year(month, day, context.locale)),
            None => ordinal(day),
        },
        (None, None) => return every,
    };
    match rule.month {
        Some(month) => format!("{every} on the {which} of {}", month_name(month)),
        None => format!("{every} on the {which}"),
    }
}

fn ordinal(n: i8) -> String {
    let suffix = match (n % 10, n) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{n}{suffix}")
}

fn list(of: impl Iterator<Item = String>) -> String {
    let all: Vec<String> = of.collect();
    match all.as_slice() {
        [] => String::new(),
        [one] => one.clone(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}
