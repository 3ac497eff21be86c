//! Words as a shell reads them: a command that a message names must do what the message says when it is pasted.

use std::borrow::Cow;

use crate::shown::is_hidden;

/// The text as one word of a POSIX shell's command line, quoted only where it has to be. Characters that are
/// [hidden](is_hidden) are escaped within `$'…'`, which shells of POSIX 2024 and most others understand: so the word is
/// still right where hidden characters are escaped before a text is shown.
#[must_use]
pub fn word(text: &str) -> Cow<'_, str> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-./,:+=@%".contains(&byte);
    if !text.is_empty() && text.bytes().all(plain) {
        return Cow::Borrowed(text);
    }
    if text.contains(is_hidden) {
        return Cow::Owned(escaped(text));
    }
    // Within single quotes everything stands for itself, save for these.
    Cow::Owned(format!("'{}'", text.replace('\'', r"'\''")))
}

fn escaped(text: &str) -> String {
    let mut word = "$'".to_owned();
    for character in text.chars() {
        match character {
            '\'' | '\\' => word.extend(['\\', character]),
            _ if is_hidden(character) => {
                // Always three digits, so that a digit that follows is not taken for one of them.
                for byte in character.to_string().bytes() {
                    word.push_str(&format!("\\{byte:03o}"));
                }
            }
            _ => word.push(character),
        }
    }
    word.push('\'');
    word
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shown::printable;
    use std::process::Command;

    #[test]
    #[cfg_attr(miri, ignore = "it starts a shell")]
    fn a_word_with_hidden_characters_stays_itself_where_they_are_escaped() {
        for text in [
            "a\\b\nc",
            "\u{1b}[31mred's\u{1b}[0m1",
            "a\u{202e}b",
            "\n",
            "é\r2",
        ] {
            let word = word(text);
            assert_eq!(printable(&word), word);
            let output = Command::new("bash")
                .args(["-c", &format!("printf %s {word}")])
                .output();
            // Not every machine has `bash`, and not every other shell knows these quotes.
            if let Ok(output) = output {
                assert_eq!(String::from_utf8(output.stdout).as_deref(), Ok(text));
            }
        }
        assert_eq!(word("a\u{1b}'1"), r"$'a\033\'1'");
    }

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
            "a\\b",
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
