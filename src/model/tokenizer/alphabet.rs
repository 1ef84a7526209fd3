//! GPT-2's alphabet: every byte as a printable character. Printable Latin-1 stands for itself, the others follow from U+0100 on.

use std::sync::LazyLock;

struct Alphabet {
    chars: [char; 256],
    /// Byte of each character below U+0180; 256 where there is none.
    bytes: [u16; 0x180],
}

static ALPHABET: LazyLock<Alphabet> = LazyLock::new(|| {
    let mut alphabet = Alphabet { chars: ['\0'; 256], bytes: [256; 0x180] };
    let mut next = 0x100u16;
    for byte in 0..=255u8 {
        let printable = matches!(byte, 0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { u16::from(byte) } else { next };
        next += u16::from(!printable);
        alphabet.chars[usize::from(byte)] = char::from_u32(code.into()).unwrap_or(char::REPLACEMENT_CHARACTER);
        alphabet.bytes[usize::from(code)] = byte.into();
    }
    alphabet
});

/// The byte that a character stands for.
pub(super) fn byte_of(c: char) -> Option<u8> {
    let byte = ALPHABET.bytes.get(usize::try_from(u32::from(c)).ok()?)?;
    u8::try_from(*byte).ok()
}

/// The character that stands for a byte.
pub(super) fn char_of(byte: u8) -> char {
    ALPHABET.chars[usize::from(byte)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_covers_every_byte_once() {
        let mut seen: Vec<u8> = (0..0x200).filter_map(char::from_u32).filter_map(byte_of).collect();
        seen.sort_unstable();
        assert_eq!(seen, (0..=255).collect::<Vec<u8>>());
        assert_eq!((byte_of('Ġ'), byte_of('Ċ')), (Some(b' '), Some(b'\n')));
        assert!((0..=255).all(|byte| byte_of(char_of(byte)) == Some(byte)));
    }
}
