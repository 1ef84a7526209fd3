//! Phrases against a table that was worked out by hand, and properties that hold for every text.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

use jiff::{Timestamp, ToSpan, civil::Date, tz::TimeZone};
use proptest::prelude::*;

use super::*;

const TABLE: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/convert/when.tsv"));

fn context(now: &str, zone: &str, locale: &str) -> Context {
    let now: Timestamp = now.parse().expect("the time of a row");
    let zone = TimeZone::get(zone).expect("the zone of a row");
    Context { now: now.to_zoned(zone), locale: Locale::named(locale).expect("the locale of a row"), purpose: Purpose::Any }
}

fn shown(of: &Option<Resolved>) -> String {
    let Some(resolved) = of else { return "none".to_owned() };
    match (&resolved.iso, &resolved.end) {
        (Some(iso), Some(end)) => format!("{iso}/{end}"),
        (Some(iso), None) => iso.clone(),
        (None, Some(end)) => format!("/{end}"),
        (None, None) => "-".to_owned(),
    }
}

#[test]
fn phrases_mean_what_the_table_says() {
    let (mut rows, mut wrong) = (0, Vec::new());
    for row in TABLE.lines().filter(|row| !row.starts_with('#')) {
        rows += 1;
        let fields: Vec<&str> = row.split('\t').collect();
        let &[phrase, now, zone, locale, first, rule, others] = fields.as_slice() else { panic!("seven fields: {row}") };
        let found = resolve(phrase, &context(now, zone, locale));
        let (recurrence, ambiguous) = match &found {
            Some(found) => (found.recurrence.clone(), found.ambiguous.clone()),
            None => (None, Vec::new()),
        };
        let wanted: Vec<&str> = others.split(" ; ").filter(|other| *other != "-").collect();
        let reported = wanted.len() == ambiguous.len()
            && wanted.iter().all(|wanted| match wanted.strip_prefix('~') {
                Some(words) => ambiguous.iter().any(|note| note.contains(words)),
                None => ambiguous.iter().any(|note| note.starts_with(&format!("{wanted}: "))),
            });
        if shown(&found) != first || recurrence.as_deref().unwrap_or("-") != rule || !reported {
            wrong.push(format!("{row}\n   got {} {recurrence:?} {ambiguous:?}", shown(&found)));
        }
    }
    assert!(rows >= 200, "only {rows} rows");
    assert!(wrong.is_empty(), "{} of {rows} rows:\n{}", wrong.len(), wrong.join("\n"));
}

const ZONES: [&str; 10] = [
    "Europe/London",
    "Europe/Vienna",
    "America/New_York",
    "Australia/Lord_Howe",
    "Asia/Kathmandu",
    "America/Sao_Paulo",
    "Pacific/Chatham",
    "Africa/Cairo",
    "Pacific/Apia",
    "UTC",
];
const WORDS: &str = "at on in by before after until from to between and the a of every each other next last this coming early late \
    half quarter past one two six twelve twenty thirty first second third fifth 7 18:30 9.15 3/5 29 31st pm am o'clock noon midnight \
    morning afternoon evening night tonight lunch bedtime today tomorrow yesterday monday friday sunday mondays weekdays week weekend \
    fortnight month year day hour minutes now february june december spring christmas easter ago end beginning daily weekly monthly \
    twice once starting ish soon 2027 29th 99999 4294967295 18446744073709551616 not bananas";

fn speaker() -> impl Strategy<Value = Context> {
    (0i64..4_102_444_800, 0..ZONES.len(), any::<bool>()).prop_map(|(second, zone, british)| Context {
        now: Timestamp::from_second(second).unwrap().to_zoned(TimeZone::get(ZONES[zone]).unwrap()),
        locale: if british { Locale::British } else { Locale::American },
        purpose: Purpose::Any,
    })
}

fn phrases() -> impl Strategy<Value = String> {
    let words: Vec<&str> = WORDS.split_whitespace().collect();
    prop::collection::vec(prop::sample::select(words), 1..9).prop_map(|words| words.join(" "))
}

/// What holds for every answer.
fn is_sound(text: &str, context: &Context) -> Result<(), TestCaseError> {
    let found = resolve(text, context);
    prop_assert_eq!(&found, &resolve(text, context), "the same question, another answer");
    let Some(found) = found else { return Ok(()) };
    for iso in found.iso.iter().chain(&found.end) {
        let well_formed = if iso.contains('T') { iso.parse::<Timestamp>().is_ok() } else { iso.parse::<Date>().is_ok() };
        prop_assert!(well_formed, "{} is not ISO 8601", iso);
    }
    prop_assert!(found.iso.is_some() || found.end.is_some() || !found.ambiguous.is_empty(), "nothing, and no reason");
    prop_assert!(found.recurrence.is_none() || found.iso.is_some(), "a rule without a first occurrence");
    if let Some(rule) = &found.recurrence {
        prop_assert!(rule.starts_with("FREQ="));
    }
    let past = match &found.start {
        Some(Point::At(time)) => *time < context.now,
        Some(Point::On(date)) => *date < context.now.date(),
        None => false,
    };
    prop_assert!(!past || found.ambiguous.iter().any(|note| note == "already past"), "past, and not reported: {:?}", found);
    let _ = converted(Some("call mum"), Some(text), Some(&found), context);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn no_text_breaks_it(text in any::<String>(), context in speaker()) {
        is_sound(&text, &context)?;
    }

    #[test]
    fn no_order_of_known_words_breaks_it(text in phrases(), context in speaker()) {
        is_sound(&text, &context)?;
    }

    /// Against counting minutes on the wall: the next time the clock shows it, on the days on which clocks change too.
    #[test]
    fn a_clock_time_is_the_next_time_the_clock_shows_it(context in speaker(), hour in 0i8..22, minute in 0i8..60) {
        // ten and eleven may be in the evening
        let hour = if hour >= 10 { hour + 2 } else { hour };
        let found = resolve(&format!("at {hour:02}:{minute:02}"), &context).unwrap();
        let Some(Point::At(time)) = found.start else { panic!("a time") };
        prop_assert!(time > context.now);
        let skipped = found.ambiguous.iter().any(|note| note.contains("does not exist"));
        let mut wall = context.now.clone();
        wall = wall.checked_sub((i64::from(wall.second())).seconds()).unwrap();
        let first = loop {
            wall = wall.checked_add(1.minute()).unwrap();
            if (wall.hour(), wall.minute()) == (hour, minute) {
                break wall;
            }
        };
        prop_assert!(if skipped { time < first } else { time == first }, "{time} {first}");
    }

    #[test]
    fn a_named_day_is_that_day_and_within_a_week(context in speaker(), day in 0usize..7) {
        let names = ["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"];
        let found = resolve(&format!("on {}", names[day]), &context).unwrap();
        let Some(Point::On(date)) = found.start else { panic!("a day") };
        prop_assert_eq!(usize::try_from(date.weekday().to_monday_zero_offset()).unwrap(), day);
        let ahead = context.now.date().until(date).unwrap().get_days();
        prop_assert!((1..=7).contains(&ahead));
    }
}

#[test]
fn easter_is_where_the_churches_put_it() {
    for (year, month, day) in
        [(1954, 4, 18), (1981, 4, 19), (2000, 4, 23), (2008, 3, 23), (2024, 3, 31), (2026, 4, 5), (2038, 4, 25)]
    {
        let holiday = calendar::holiday_in(phrase::Holiday::Easter(0), year, Locale::British);
        assert_eq!(holiday, Some(jiff::civil::date(year, month, day)));
    }
}

#[test]
fn only_english_is_read() {
    for (name, locale) in [("en-GB", Some(Locale::British)), ("en_US", Some(Locale::American)), ("en", Some(Locale::British))] {
        assert_eq!(Locale::named(name), locale);
    }
    for name in ["de-AT", "", "english", "us"] {
        assert_eq!(Locale::named(name), None);
    }
}

#[test]
fn the_short_text_is_what_the_table_says() {
    let mut wrong = Vec::new();
    for row in include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/convert/converted.tsv"))
        .lines()
        .filter(|row| !row.starts_with('#'))
    {
        let fields: Vec<&str> = row.split('\t').collect();
        let &[task, phrase, now, zone, locale, wanted] = fields.as_slice() else { panic!("six fields: {row}") };
        let context = context(now, zone, locale);
        let said = (phrase != "-").then_some(phrase);
        let when = said.and_then(|said| resolve(said, &context));
        let text = converted((task != "-").then_some(task), said, when.as_ref(), &context);
        if text != wanted {
            wrong.push(format!("{row}\n   got {text}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn who_wants_to_be_woken_at_six_gets_up_in_the_morning() {
    let mut context = context("2026-11-21T10:00:00Z", "UTC", "en-GB");
    let iso = |context: &Context, text: &str| resolve(text, context).and_then(|when| when.iso).unwrap_or_default();
    assert_eq!(iso(&context, "at six"), "2026-11-21T18:00:00+00:00");
    context.purpose = Purpose::of("wake me up");
    assert_eq!(iso(&context, "at six"), "2026-11-22T06:00:00+00:00");
    assert_eq!(iso(&context, "tomorrow at half six"), "2026-11-22T06:30:00+00:00");
    assert_eq!(iso(&context, "every day at six"), "2026-11-22T06:00:00+00:00");
    assert_eq!(iso(&context, "at six in the evening"), "2026-11-21T18:00:00+00:00");
    assert_eq!(
        ["Wake me", "get up", "get me up", "call mum", "wakeboarding"].map(Purpose::of).map(|it| it == Purpose::Waking),
        [true, true, true, false, false]
    );
}
