//! Dollars as people write them, exactly: text to nano-dollars and back, without floating point.

/// Nano-dollars of a cent.
pub const CENT: i64 = 10_000_000;
/// Digits after the point: nano-dollars.
const DIGITS: usize = 9;

/// `12`, `0.15`, `1e-2`: nano-dollars; `None` where it is negative, finer than a nano-dollar, too much, or no number.
pub fn parse(text: &str) -> Option<i64> {
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (text, 0),
    };
    let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || !digits(whole) || !digits(part) || mantissa.ends_with('.') || text.len() > 40 {
        return None;
    }
    // The number is all its digits times ten to the power of `shift`, in nano-dollars.
    let shift = i32::try_from(DIGITS).ok()?.checked_add(exponent)?.checked_sub(i32::try_from(part.len()).ok()?)?;
    let value = whole
        .bytes()
        .chain(part.bytes())
        .try_fold(0i128, |value, digit| value.checked_mul(10)?.checked_add(i128::from(digit - b'0')))?;
    if value == 0 {
        return Some(0);
    }
    let factor = 10i128.checked_pow(shift.unsigned_abs())?;
    let nanos = if shift >= 0 {
        value.checked_mul(factor)?
    } else if value % factor == 0 {
        value / factor
    } else {
        return None;
    };
    i64::try_from(nanos).ok()
}

/// Dollars with as many digits as it needs: `0.15`, `12`.
pub fn format(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let nanos = nanos.unsigned_abs();
    let (whole, part) = (nanos / 1_000_000_000, nanos % 1_000_000_000);
    let text = format!("{sign}{whole}.{part:09}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn dollars_are_read_exactly_or_not_at_all() {
        for (text, nanos) in [
            ("0.15", 150_000_000),
            ("12", 12_000_000_000),
            ("0.000000001", 1),
            ("1e-9", 1),
            ("1.5e1", 15_000_000_000),
            ("0", 0),
            ("0.0", 0),
            ("9223372036.854775807", i64::MAX),
            ("0.1000000000", 100_000_000),
        ] {
            assert_eq!(parse(text), Some(nanos), "{text}");
        }
        for text in [
            "",
            "-1",
            "+1",
            ".5",
            "1.",
            "0.0000000001",
            "1e-10",
            "9223372036.854775808",
            "1e99",
            "x",
            "1e",
            "1_0",
            "1e2147483647",
            "0x1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(nanos in 0i64..) {
            prop_assert_eq!(parse(&format(nanos)), Some(nanos));
        }
    }
}
