//! A time phrase as words and numbers: "half past six", "6:30 p.m.", "the twenty-first", "3/5".
//!
//! Knows spelling only. What a number means (an hour, a day, a year) is for those that read the tokens.

/// One word or number of the phrase.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// "six", "6", "2026"
    Number(u32),
    /// "third", "3rd"
    Ordinal(u32),
    /// "18:30", "07:45", "eighteen hundred". `sure` if it can only be meant in 24 hours (a leading zero, or from 13 on).
    Clock { hour: u32, minute: u32, sure: bool },
    /// "21.06", "9.15": a time or a date
    Dotted(u32, u32),
    /// "3/5", "3/5/2027"
    Slashed(u32, u32, Option<u32>),
    /// "2026-05-03"
    Dated(u32, u32, u32),
    /// anything else, in lower case
    Word(String),
}

/// A token, and how it stood in the text, for messages.
#[derive(Clone, Debug)]
pub(super) struct Said {
    pub token: Token,
    pub text: String,
    /// Written out as a word, so that it may join the next ("twenty" "five").
    spelt: bool,
}

const ONES: [&str; 20] = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
];
const TENS: [&str; 10] = ["", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"];
const ORDINALS: [&str; 21] = [
    "",
    "first",
    "second",
    "third",
    "fourth",
    "fifth",
    "sixth",
    "seventh",
    "eighth",
    "ninth",
    "tenth",
    "eleventh",
    "twelfth",
    "thirteenth",
    "fourteenth",
    "fifteenth",
    "sixteenth",
    "seventeenth",
    "eighteenth",
    "nineteenth",
    "twentieth",
];

/// The tokens of a phrase. Never fails: what is not known is a word.
pub(super) fn tokens(text: &str) -> Vec<Said> {
    let mut said = Vec::new();
    for raw in text.split(|c: char| c.is_whitespace() || ",;!?()\"“”…".contains(c)) {
        let lower = raw.to_lowercase().replace(['’', '‘', '`'], "'");
        let word = lower.trim_matches('\'');
        let word = if word.ends_with('.') && !is_initials(word) { word.trim_end_matches('.') } else { word };
        if !word.is_empty() {
            push_word(word, &mut said);
        }
    }
    joined(said)
}

/// "a.m", "p.m."
fn is_initials(word: &str) -> bool {
    word.contains('.') && matches!(word.replace('.', "").as_str(), "am" | "pm")
}

fn push_word(word: &str, said: &mut Vec<Said>) {
    let mut push = |token: Token, spelt: bool| said.push(Said { token, text: word.to_owned(), spelt });
    if is_initials(word) {
        return push(Token::Word(word.replace('.', "")), false);
    }
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        return match digits(word) {
            Some((token, rest)) => {
                push(token, false);
                if !rest.is_empty() {
                    push(Token::Word(rest), false);
                }
            }
            None => push(Token::Word(word.to_owned()), false),
        };
    }
    if word.contains('-') {
        for part in word.split('-').filter(|part| !part.is_empty()) {
            push_word(part, said);
        }
        return;
    }
    if let Some(n) = ONES.iter().position(|&w| w == word).or_else(|| TENS.iter().position(|&w| w == word).map(|n| n * 10)) {
        return push(Token::Number(n as u32), true);
    }
    let ordinal = match word {
        "thirtieth" => Some(30),
        _ => ORDINALS.iter().position(|&w| w == word && !w.is_empty()),
    };
    if let Some(n) = ordinal {
        return push(Token::Ordinal(n as u32), true);
    }
    let whole = match word {
        "o'clock" => "oclock",
        // "sevenish"
        _ => word,
    };
    if let Some(stem) = whole.strip_suffix("ish")
        && let Some(n) = ONES.iter().position(|&w| w == stem)
    {
        push(Token::Number(n as u32), false);
        return push(Token::Word("ish".to_owned()), false);
    }
    push(Token::Word(whole.strip_suffix("'s").unwrap_or(whole).to_owned()), false);
}

/// What begins with a digit: "6pm", "18:30", "3rd", "9.15", "3/5", "2026-05-03", "30min"; and what is glued to it.
fn digits(word: &str) -> Option<(Token, String)> {
    let (first, rest) = number(word)?;
    let shown = word.len() - rest.len();
    if let Some(after) = rest.strip_prefix(':') {
        let (minute, rest) = number(after).filter(|(m, rest)| *m < 60 && after.len() - rest.len() == 2)?;
        let rest = match rest.strip_prefix(':').and_then(number) {
            Some((second, rest)) if second < 60 => rest,
            _ => rest,
        };
        let sure = first == 0 || first > 12 || (shown == 2 && first < 10);
        return (first <= 24).then(|| (Token::Clock { hour: first, minute, sure }, suffix(rest))).filter(known_suffix);
    }
    if let Some((second, rest)) = rest.strip_prefix('.').and_then(number) {
        return Some((Token::Dotted(first, second), suffix(rest.trim_start_matches('.')))).filter(known_suffix);
    }
    if let Some((second, rest)) = rest.strip_prefix('/').and_then(number) {
        return match rest.strip_prefix('/').and_then(number) {
            Some((year, "")) => Some((Token::Slashed(first, second, Some(year)), String::new())),
            None if rest.is_empty() => Some((Token::Slashed(first, second, None), String::new())),
            _ => None,
        };
    }
    if let Some((month, rest)) = rest.strip_prefix('-').and_then(number) {
        let (day, rest) = rest.strip_prefix('-').and_then(number)?;
        return (shown == 4 && rest.is_empty()).then_some((Token::Dated(first, month, day), String::new()));
    }
    match rest {
        "st" | "nd" | "rd" | "th" => Some((Token::Ordinal(first), String::new())),
        // "0730"
        "" if shown == 4 && word.starts_with('0') && first % 100 < 60 => {
            Some((Token::Clock { hour: first / 100, minute: first % 100, sure: true }, String::new()))
        }
        _ => Some((Token::Number(first), suffix(rest))).filter(known_suffix),
    }
}

fn number(text: &str) -> Option<(u32, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text[..end].parse().ok().map(|n| (n, &text[end..]))
}

/// "6pm", "6p.m.", "30min", "2h"
fn suffix(rest: &str) -> String {
    match rest.replace('.', "").as_str() {
        "a" => "am".to_owned(),
        "p" => "pm".to_owned(),
        "h" | "hr" => "hour".to_owned(),
        "m" => "min".to_owned(),
        "s" => "sec".to_owned(),
        "d" => "day".to_owned(),
        "w" => "week".to_owned(),
        "ish" | "-ish" => "ish".to_owned(),
        other => other.to_owned(),
    }
}

fn known_suffix((_, rest): &(Token, String)) -> bool {
    ["", "am", "pm", "hour", "hrs", "min", "mins", "sec", "secs", "day", "week", "ish", "oclock", "o'clock"]
        .contains(&rest.as_str())
}

/// "twenty" "five" is 25, "thirty" "first" the 31st, "p" "m" is "pm", "o" "clock" is "oclock", "eighteen" "hundred" is 18:00.
fn joined(said: Vec<Said>) -> Vec<Said> {
    let mut out: Vec<Said> = Vec::with_capacity(said.len());
    let mut zero_before = false;
    for next in said {
        let Some(last) = out.last_mut() else {
            zero_before = is_word(&next, "oh");
            out.push(next);
            continue;
        };
        let value = match (&last.token, &next.token) {
            (Token::Number(tens), Token::Number(ones @ 1..=9)) if pairs(last, &next, *tens) => Some(Token::Number(tens + ones)),
            (Token::Number(tens), Token::Ordinal(ones @ 1..=9)) if pairs(last, &next, *tens) => Some(Token::Ordinal(tens + ones)),
            (Token::Number(n @ 0..=23), Token::Word(word)) if word == "hundred" => {
                Some(Token::Clock { hour: *n, minute: 0, sure: true })
            }
            (Token::Word(a), Token::Word(b)) => match (a.as_str(), b.as_str()) {
                ("p", "m") => Some(Token::Word("pm".to_owned())),
                ("a", "m") => Some(Token::Word("am".to_owned())),
                ("o", "clock") => Some(Token::Word("oclock".to_owned())),
                ("a", "hundred") => Some(Token::Number(100)),
                _ => None,
            },
            _ => None,
        };
        if let Some(token) = value {
            // "twenty five" is complete: a third word does not join it
            let hundred = matches!(token, Token::Clock { .. });
            *last = Said { token, text: format!("{} {}", last.text, next.text), spelt: false };
            if hundred && zero_before && out.len() >= 2 {
                out.remove(out.len() - 2);
            }
            continue;
        }
        zero_before = is_word(last, "oh") || is_word(&next, "oh");
        out.push(next);
    }
    out
}

fn pairs(last: &Said, next: &Said, tens: u32) -> bool {
    last.spelt && next.spelt && tens >= 20 && tens.is_multiple_of(10)
}

fn is_word(said: &Said, word: &str) -> bool {
    matches!(&said.token, Token::Word(w) if w == word)
}

/// The tokens, and how far they have been read.
#[derive(Clone)]
pub(super) struct Cursor<'a> {
    said: &'a [Said],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(said: &'a [Said]) -> Self {
        Cursor { said, at: 0 }
    }

    /// The token `ahead` places on (0 is the next).
    pub(super) fn peek(&self, ahead: usize) -> Option<&'a Token> {
        self.said.get(self.at + ahead).map(|said| &said.token)
    }

    /// The word `ahead` places on, or "" if that is a number or the end.
    pub(super) fn word(&self, ahead: usize) -> &'a str {
        match self.peek(ahead) {
            Some(Token::Word(word)) => word,
            _ => "",
        }
    }

    /// The word just before the next token, or "".
    pub(super) fn before(&self) -> &'a str {
        match self.at.checked_sub(1).and_then(|at| self.said.get(at)).map(|said| &said.token) {
            Some(Token::Word(word)) => word,
            _ => "",
        }
    }

    /// How many tokens have been read.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn advance(&mut self, by: usize) {
        self.at = (self.at + by).min(self.said.len());
    }

    /// Takes these words if they come next, whole.
    pub(super) fn eat(&mut self, words: &str) -> bool {
        let mut ahead = 0;
        for word in words.split(' ') {
            if self.word(ahead) != word {
                return false;
            }
            ahead += 1;
        }
        self.advance(ahead);
        true
    }

    /// Takes the first of these that comes next.
    pub(super) fn eat_any(&mut self, choices: &[&str]) -> bool {
        choices.iter().any(|words| self.eat(words))
    }

    pub(super) fn rest(&self) -> &'a [Said] {
        self.said.get(self.at..).unwrap_or_default()
    }

    pub(super) fn is_done(&self) -> bool {
        self.at >= self.said.len()
    }
}
