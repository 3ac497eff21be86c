//! Words as a shell reads them: a command that a text names must do what it says when it is pasted.

use std::borrow::Cow;

/// The text as one word of a POSIX shell's command line, quoted only where it has to be.
#[must_use]
pub fn word(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./,:+=@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    // Within single quotes everything stands for itself, save for these.
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    #[cfg_attr(miri, ignore = "it starts a shell")]
    fn a_shell_reads_a_word_as_the_text_that_it_was_made_of() {
        for text in [
            "pool",
            "/var/tmp/a-b_c.d",
            "",
            "a b",
            "it's",
            "$HOME",
            "`id`",
            "a\\b\nc",
            "größe",
            "~",
            "*",
        ] {
            let command = format!("printf %s {}", word(text));
            let output = Command::new("sh").args(["-c", &command]).output();
            let output = output.expect("there is a shell").stdout;
            assert_eq!(String::from_utf8(output).as_deref(), Ok(text));
        }
        assert_eq!(word("/var/tmp/pool"), "/var/tmp/pool");
        assert_eq!(word("my pool"), "'my pool'");
    }
}
