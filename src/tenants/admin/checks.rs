//! Checks of values that several kinds of objects have.

use super::{AdminError, invalid};

/// Longest name, characters.
const MAX_NAME: usize = 200;
/// Longest name of a model, bytes.
const MAX_MODEL: usize = 200;
/// Longest life of a key, seconds: a hundred years.
const MAX_LIFE: i64 = 100 * 366 * 86_400;
/// Stands for all models together.
pub const ALL: &str = "*";

/// A name for people.
pub fn name(text: &str) -> Result<String, AdminError> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MAX_NAME || text.chars().any(char::is_control) {
        return Err(invalid("name", format!("1 to {MAX_NAME} characters without control characters are right")));
    }
    Ok(text.to_owned())
}

/// The name of a model, without a version.
pub fn model(field: &'static str, text: &str) -> Result<(), AdminError> {
    let sound = (1..=MAX_MODEL).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'@');
    let problem =
        || invalid(field, format!("{text:?} is not the name of a model: 1 to {MAX_MODEL} visible ASCII characters without '@'"));
    if sound { Ok(()) } else { Err(problem()) }
}

/// When something expires that lives for so many seconds.
pub fn expiry(now: i64, seconds: i64) -> Result<i64, AdminError> {
    if (1..=MAX_LIFE).contains(&seconds) {
        return Ok(now + seconds);
    }
    Err(invalid("expires_in_seconds", format!("1 to {MAX_LIFE} are right, but got {seconds}")))
}
