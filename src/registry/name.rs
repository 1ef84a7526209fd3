//! Names as clients type them: `support`, `support@3`, `support@1f2e3d4c`.

use super::RegistryError;
use crate::ids::VersionId;

/// Longest name, characters.
const MAX_NAME: usize = 64;
/// Longest name of a version that a training job makes, characters.
const MAX_TRAINED: usize = 256;
/// Begins the names of versions that training jobs make.
pub(super) const TRAINED: &str = "ft:";
/// Fewest hexadecimal digits that name a version by digest. Shorter decimals are numbers, so the two cannot be confused.
const MIN_DIGEST_DIGITS: usize = 8;

/// Checks a name for a new adapter; `reserved` are the names of the base.
pub fn check(name: &str, reserved: &[String]) -> Result<(), RegistryError> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_NAME {
        "it is longer than 64 characters"
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        "letters, digits, '.', '_' and '-' are allowed"
    } else if name.bytes().all(|byte| byte == b'.') {
        "it holds no letter or digit"
    } else if reserved.iter().any(|taken| taken == name) {
        "it is a name of the base"
    } else {
        return Ok(());
    };
    // A huge name should not come back as a huge message.
    Err(RegistryError::InvalidName { name: name.chars().take(2 * MAX_NAME).collect(), reason })
}

/// Checks the name of a version that a training job makes: `ft:base:tenant:suffix:id`, and `:ckpt-step-N` after it. Nobody else can
/// make such a name, as [`check`] takes no colons.
pub(super) fn check_trained(name: &str) -> Result<(), RegistryError> {
    let sound = name.starts_with(TRAINED)
        && name.len() <= MAX_TRAINED
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:".contains(&byte));
    let reason = "ft:, then at most 253 letters, digits, '.', '_', '-' and ':'";
    if sound { Ok(()) } else { Err(RegistryError::InvalidName { name: name.chars().take(MAX_TRAINED).collect(), reason }) }
}

/// One version of an adapter, as typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Selector {
    Number(u32),
    /// Lower-case hexadecimal digits, at least [`MIN_DIGEST_DIGITS`].
    Digest(String),
}

impl Selector {
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.len() < MIN_DIGEST_DIGITS {
            let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
            return plain.then(|| text.parse().ok().map(Self::Number)).flatten();
        }
        let hex = text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then(|| Self::Digest(text.to_ascii_lowercase()))
    }

    pub(super) fn selects(&self, number: u32, id: &VersionId) -> bool {
        match self {
            Self::Number(wanted) => *wanted == number,
            Self::Digest(prefix) => id.to_string().starts_with(prefix),
        }
    }
}

/// The version that a compare-and-set expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Expected {
    NotLoaded,
    Version(Selector),
}

impl Expected {
    pub(super) fn parse(text: &str) -> Result<Self, RegistryError> {
        if text == "0" {
            return Ok(Self::NotLoaded);
        }
        let invalid = || RegistryError::InvalidExpected { given: text.chars().take(2 * MAX_NAME).collect() };
        Selector::parse(text).map(Self::Version).ok_or_else(invalid)
    }
}

/// Splits `name` or `name@version`.
pub(super) fn split(model: &str) -> Option<(&str, Option<Selector>)> {
    match model.split_once('@') {
        None => Some((model, None)),
        Some((name, version)) => Some((name, Some(Selector::parse(version)?))),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use super::*;

    #[test]
    fn names_are_checked() {
        let reserved = ["base".to_owned()];
        for good in ["a", "Support_2.v-1", "x".repeat(64).as_str()] {
            check(good, &reserved).unwrap();
        }
        for bad in ["", "a@1", "a/b", "..", "ü", "a b", "base", "x".repeat(65).as_str(), "a\n"] {
            assert!(check(bad, &reserved).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn names_of_jobs_are_nobody_elses() {
        for good in ["ft:base:proj_1::Ab3", "ft:base:proj_1:my-suffix:Ab3:ckpt-step-12"] {
            check_trained(good).unwrap();
            assert!(check(good, &[]).is_err());
        }
        for bad in ["base:x", "ft:a/b", "ft:a@1", "ft:\u{e4}", &format!("ft:{}", "x".repeat(300))] {
            assert!(check_trained(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn numbers_and_digests_cannot_be_confused() {
        assert_eq!(split("a"), Some(("a", None)));
        assert_eq!(split("a@12"), Some(("a", Some(Selector::Number(12)))));
        assert_eq!(split("a@12345678"), Some(("a", Some(Selector::Digest("12345678".into())))));
        assert_eq!(split("a@ABCDEF01"), Some(("a", Some(Selector::Digest("abcdef01".into())))));
        for bad in ["a@", "a@0", "a@01", "a@abc", "a@1@2", "a@-1", "a@+1", "a@12345678x"] {
            assert_eq!(split(bad), None, "{bad}");
        }
        assert_eq!(Expected::parse("0").unwrap(), Expected::NotLoaded);
        assert!(Expected::parse("latest").is_err());
    }
}
