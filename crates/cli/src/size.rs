//! Sizes as people write them.

use bytesize::ByteSize;

/// The largest size that a file can have, and so the largest that anything here can have.
const MAX_SIZE_BYTES: u64 = i64::MAX as u64;

/// Reads a size: `4096`, `64KiB`, `1GiB`, `1GB`. A part of a byte is left out.
///
/// # Errors
/// What is wrong with the text, which the caller names.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    if text.starts_with('-') {
        return Err("a size is not negative: write for example 4096, 64KiB or 1GiB".to_owned());
    }
    let wrong = || "it is not a size: write for example 4096, 64KiB or 1GiB".to_owned();
    let end = text.find(|character: char| !character.is_ascii_digit() && character != '.');
    let (number, unit) = text.split_at(end.unwrap_or(text.len()));
    let unit = unit_bytes(unit.trim_start()).ok_or_else(wrong)?;
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let is_number = !whole.is_empty() && !number.ends_with('.') && !fraction.contains('.');
    if !is_number {
        return Err(wrong());
    }
    // Further digits make no byte, even of the largest unit.
    let fraction = &fraction[..fraction.len().min(18)];
    let part = match fraction {
        "" => 0,
        digits => {
            unit * digits.parse::<u128>().map_err(|_| wrong())? / 10u128.pow(digits.len() as u32)
        }
    };
    // A number that does not fit 128 bits is too large for a size in any unit.
    let whole = whole
        .parse::<u128>()
        .ok()
        .and_then(|whole| whole.checked_mul(unit));
    whole
        .and_then(|whole| u64::try_from(whole + part).ok())
        .filter(|&size| size <= MAX_SIZE_BYTES)
        .ok_or_else(|| format!("the largest size is {MAX_SIZE_BYTES} bytes, 1 less than 8EiB"))
}

/// Bytes of a unit. With an `i` it is a power of 1024, without a power of 1000; the `B` at its end may be left out.
fn unit_bytes(unit: &str) -> Option<u128> {
    let unit = unit.to_ascii_lowercase();
    let prefix = unit.strip_suffix('b').unwrap_or(&unit);
    let (letter, base) = match prefix.strip_suffix('i') {
        Some(letter) => (letter, 1024u128),
        None => (prefix, 1000),
    };
    if prefix.is_empty() {
        return Some(1);
    }
    let power = ["k", "m", "g", "t", "p", "e"]
        .iter()
        .position(|&known| known == letter)?;
    Some(base.pow(power as u32 + 1))
}

/// Writes a size with a binary unit.
pub(crate) fn show_size(bytes: u64) -> String {
    ByteSize::b(bytes).display().iec().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_as_people_write_them() {
        let cases = [
            ("0", 0),
            ("4096", 4096),
            ("64KiB", 65_536),
            ("64 KiB", 65_536),
            ("1GiB", 1 << 30),
            ("1.5MiB", 3 << 19),
            ("1GB", 1_000_000_000),
            ("16TiB", 16 << 40),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        let long = format!("1.{}MiB", "5".repeat(100));
        assert_eq!(parse_size(&long), Ok(1_631_118), "digits without end");
        for text in [
            "", "x", "-1", "1 parsec", "KiB", ".5MiB", "1.", "1.2.3", "i", "1iB",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_exact_up_to_the_largest_and_refused_beyond() {
        let cases = [
            ("9007199254740993", (1 << 53) + 1),
            ("7.5EiB", 15 << 59),
            ("9223372036854775807", MAX_SIZE_BYTES),
            ("7.999999999999999999EiB", MAX_SIZE_BYTES - 1),
        ];
        for (text, bytes) in cases {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        let endless = "9".repeat(100);
        for text in ["8EiB", "9223372036854775808", "20EB", &endless] {
            let error = parse_size(text).expect_err(text);
            assert!(error.contains("1 less than 8EiB"), "{error}");
        }
    }
}
