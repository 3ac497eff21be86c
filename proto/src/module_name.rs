//! What a module may be called.
//!
//! A module's name becomes part of the names of a library's file, of a symbol, and of the packages that it is built
//! from. It is a bare word and never a path, since clients name modules.

use std::fmt;

use crate::limits::MAX_MODULE_NAME_BYTES;
use crate::shown::brief;

/// The rule, as errors state it.
pub const RULE: &str = "a module's name is up to 64 lowercase letters, digits and single underscores, begins with a \
                        letter and does not end with an underscore";

const _: () = assert!(MAX_MODULE_NAME_BYTES == 64, "the rule says so");

/// Whether this is the name of a module. Can be evaluated at compile time.
#[must_use]
pub const fn is_module_name(name: &str) -> bool {
    let bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > MAX_MODULE_NAME_BYTES || !bytes[0].is_ascii_lowercase() {
        return false;
    }
    let mut index = 1;
    while index < bytes.len() {
        let byte = bytes[index];
        let is_right = match byte {
            b'_' => bytes[index - 1] != b'_',
            _ => byte.is_ascii_lowercase() || byte.is_ascii_digit(),
        };
        if !is_right {
            return false;
        }
        index += 1;
    }
    bytes[bytes.len() - 1] != b'_'
}

/// Checks that a text is a module's name.
///
/// # Errors
/// It is not. The error says what a name is.
pub fn check_module_name(name: &str) -> Result<(), NotAModuleName> {
    match is_module_name(name) {
        true => Ok(()),
        false => Err(NotAModuleName(name.to_owned())),
    }
}

/// A text that is not a module's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct NotAModuleName(String);

impl fmt::Display for NotAModuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\" is not a module name: {RULE}", brief(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_word_that_libraries_symbols_and_packages_can_have() {
        for name in ["a", "my_module", "store2", "a_2", &"a".repeat(64)] {
            assert!(check_module_name(name).is_ok(), "{name}");
        }
        let long = "a".repeat(65);
        for name in [
            "", "A", "aB", "a-b", "a b", "2a", "_a", "a_", "_", "a__b", "../a", "a/b", "a.b",
            "größe", "a\n", "a\0", &long,
        ] {
            let error = check_module_name(name).expect_err(name).to_string();
            let shown = format!("\"{}\" is not a module name", brief(name));
            assert!(error.starts_with(&shown), "{error}");
        }
    }
}
