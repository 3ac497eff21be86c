//! Sizes as people write them.

use bytesize::ByteSize;

/// Reads a size: `4096`, `64KiB`, `1GiB`, `1GB`.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let size: Result<ByteSize, _> = text.trim().parse();
    size.map(|size| size.as_u64())
        .map_err(|_| format!("\"{text}\" is not a size: write for example 4096, 64KiB or 1GiB"))
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
        for text in ["", "x", "-1", "1 parsec", "KiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
