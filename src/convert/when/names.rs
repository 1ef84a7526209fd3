//! Names of the calendar: weekdays, months, seasons, holidays, with the short forms that people type.

use jiff::civil::Weekday;

use super::phrase::Holiday;

/// The weekday, and whether it was said as a plural ("mondays").
pub(super) fn weekday(word: &str) -> Option<(Weekday, bool)> {
    let (stem, plural) = match word {
        "tues" | "weds" | "thurs" => (word, false),
        _ => match word.strip_suffix('s') {
            Some(stem) if stem.ends_with("day") => (stem, true),
            _ => (word, false),
        },
    };
    let day = match stem {
        "monday" | "mon" => Weekday::Monday,
        "tuesday" | "tue" | "tues" => Weekday::Tuesday,
        "wednesday" | "wed" | "weds" => Weekday::Wednesday,
        "thursday" | "thu" | "thur" | "thurs" => Weekday::Thursday,
        "friday" | "fri" => Weekday::Friday,
        "saturday" | "sat" => Weekday::Saturday,
        "sunday" | "sun" => Weekday::Sunday,
        _ => return None,
    };
    Some((day, plural))
}

pub(super) const MONTHS: [&str; 12] =
    ["january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november", "december"];

/// 1 to 12.
pub(super) fn month(word: &str) -> Option<i8> {
    let at = match word {
        "sept" => 8,
        _ => MONTHS.iter().position(|name| *name == word || (word.len() == 3 && name.starts_with(word)))?,
    };
    i8::try_from(at + 1).ok()
}

/// The first month of a season on the northern half of the world, as weather services count them.
pub(super) fn season(word: &str) -> Option<i8> {
    match word {
        "spring" => Some(3),
        "summer" => Some(6),
        "autumn" | "fall" => Some(9),
        "winter" => Some(12),
        _ => None,
    }
}

/// The holiday that comes next, and how many words it takes. `word` gives the words ahead.
pub(super) fn holiday<'a>(word: impl Fn(usize) -> &'a str) -> Option<(Holiday, usize)> {
    use Weekday::{Monday, Sunday, Thursday};
    let names: [(&str, Holiday); 40] = [
        ("christmas eve", Holiday::Fixed(12, 24)),
        ("christmas day", Holiday::Fixed(12, 25)),
        ("christmas", Holiday::Fixed(12, 25)),
        ("xmas", Holiday::Fixed(12, 25)),
        ("boxing day", Holiday::Fixed(12, 26)),
        ("new year eve", Holiday::Fixed(12, 31)),
        ("new years eve", Holiday::Fixed(12, 31)),
        ("new year day", Holiday::Fixed(1, 1)),
        ("new years day", Holiday::Fixed(1, 1)),
        ("new year", Holiday::Fixed(1, 1)),
        ("new years", Holiday::Fixed(1, 1)),
        ("valentine day", Holiday::Fixed(2, 14)),
        ("valentines day", Holiday::Fixed(2, 14)),
        ("valentines", Holiday::Fixed(2, 14)),
        ("valentine", Holiday::Fixed(2, 14)),
        ("saint patrick day", Holiday::Fixed(3, 17)),
        ("st patrick day", Holiday::Fixed(3, 17)),
        ("april fools day", Holiday::Fixed(4, 1)),
        ("april fool day", Holiday::Fixed(4, 1)),
        ("independence day", Holiday::Fixed(7, 4)),
        ("halloween", Holiday::Fixed(10, 31)),
        ("hallowe'en", Holiday::Fixed(10, 31)),
        ("bonfire night", Holiday::Fixed(11, 5)),
        ("guy fawkes night", Holiday::Fixed(11, 5)),
        ("labor day", Holiday::Nth(1, Monday, 9)),
        ("labour day", Holiday::Fixed(5, 1)),
        ("memorial day", Holiday::Nth(-1, Monday, 5)),
        ("thanksgiving day", Holiday::Nth(4, Thursday, 11)),
        ("thanksgiving", Holiday::Nth(4, Thursday, 11)),
        ("father day", Holiday::Nth(3, Sunday, 6)),
        ("fathers day", Holiday::Nth(3, Sunday, 6)),
        ("mother day", Holiday::MothersDay),
        ("mothers day", Holiday::MothersDay),
        ("good friday", Holiday::Easter(-2)),
        ("easter sunday", Holiday::Easter(0)),
        ("easter monday", Holiday::Easter(1)),
        ("easter", Holiday::Easter(0)),
        ("shrove tuesday", Holiday::Easter(-47)),
        ("pancake day", Holiday::Easter(-47)),
        ("ash wednesday", Holiday::Easter(-46)),
    ];
    names.into_iter().find_map(|(name, holiday)| {
        let mut length = 0;
        for part in name.split(' ') {
            if word(length) != part {
                return None;
            }
            length += 1;
        }
        Some((holiday, length))
    })
}
