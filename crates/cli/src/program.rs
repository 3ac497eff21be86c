//! Commands of this program that it prints. They name it as it was called, so that they work as they are printed.

use std::borrow::Cow;
use std::ffi::OsString;
use std::path::Path;
use std::sync::OnceLock;

use chimaera_client::proto::shell;

use crate::args::DaemonArguments;

/// How libraries name the program in commands: they do not know how it was called.
const NAME_IN_LIBRARIES: &str = "`chimaera ";

/// The program as one word of a command: the path by which it was called, or its name if the shell has found it.
fn name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| name_of(std::env::args_os().next()))
}

fn name_of(called: Option<OsString>) -> String {
    let called = called.filter(|name| !name.is_empty());
    let called = called.unwrap_or_else(|| "chimaera".into());
    shell::word(&called.to_string_lossy()).into_owned()
}

/// A command of this program, for the daemon that this one means.
pub(crate) fn command(words: &[&str], daemon: &DaemonArguments) -> String {
    let mut line = name().to_owned();
    let mut add = |word: &str| {
        line.push(' ');
        line.push_str(&shell::word(word));
    };
    words.iter().for_each(|word| add(word));
    if let Some(socket) = &daemon.place.socket {
        add("--socket");
        add(&socket.to_string_lossy());
    }
    if daemon.any_user {
        add("--any-user");
    }
    line
}

/// A command of this program that needs no daemon.
pub(crate) fn command_alone(words: &[&str]) -> String {
    command(words, &DaemonArguments::default())
}

/// A path as a word of a command.
pub(crate) fn path(path: &Path) -> Cow<'_, str> {
    path.to_string_lossy()
}

/// A library's text, with the program in its commands named as it was called.
pub(crate) fn as_called(text: &str) -> String {
    text.replace(NAME_IN_LIBRARIES, &format!("`{} ", name()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::SocketArgument;

    #[test]
    fn the_program_is_named_as_it_was_called() {
        let cases = [
            ("chimaera", "chimaera"),
            ("target/release/chimaera", "target/release/chimaera"),
            ("/opt/my programs/chimaera", "'/opt/my programs/chimaera'"),
            ("", "chimaera"),
        ];
        for (called, named) in cases {
            assert_eq!(name_of(Some(called.into())), named);
        }
        assert_eq!(name_of(None), "chimaera");
    }

    #[test]
    fn a_command_means_the_daemon_that_this_one_means() {
        let daemon = DaemonArguments {
            place: SocketArgument {
                socket: Some("/a b/socket".into()),
            },
            any_user: true,
        };
        let line = command(&["verify", "check", "--pool", "my pool"], &daemon);
        let expected = "verify check --pool 'my pool' --socket '/a b/socket' --any-user";
        assert_eq!(line, format!("{} {expected}", name()));
    }
}
