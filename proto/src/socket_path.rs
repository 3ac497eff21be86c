//! Where the daemon listens when nobody says otherwise.

use std::ffi::OsString;
use std::path::PathBuf;

/// The environment variable that names the daemon's socket.
pub const SOCKET_VARIABLE: &str = "CHIMAERA_SOCKET";

/// The path of the daemon's socket: that in [`SOCKET_VARIABLE`], else
/// `/run/chimaera/chimaera.sock` for root, else `chimaera.sock` in the user's runtime folder
/// (`$XDG_RUNTIME_DIR`, or `/run/user/UID` where that is not set). An empty variable counts as
/// one that is not set.
#[must_use]
pub fn default_socket_path() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    choose(
        variable(SOCKET_VARIABLE),
        nix::unistd::Uid::effective().as_raw(),
        variable("XDG_RUNTIME_DIR"),
    )
}

fn choose(named: Option<OsString>, user: u32, runtime_folder: Option<OsString>) -> PathBuf {
    match (named, user, runtime_folder) {
        (Some(path), ..) => path.into(),
        (None, 0, _) => "/run/chimaera/chimaera.sock".into(),
        (None, _, Some(folder)) => PathBuf::from(folder).join("chimaera.sock"),
        // Never a folder that everybody may write to: whoever listens there would be trusted.
        (None, user, None) => format!("/run/user/{user}/chimaera.sock").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variable_comes_first_and_root_has_its_own_place() {
        let some = |text: &str| Some(OsString::from(text));
        let cases = [
            (some("/a/b"), 0, some("/run/user/0"), "/a/b"),
            (None, 0, some("/run/user/0"), "/run/chimaera/chimaera.sock"),
            (None, 1000, some("/x"), "/x/chimaera.sock"),
            (None, 1000, None, "/run/user/1000/chimaera.sock"),
        ];
        for (named, user, folder, expected) in cases {
            assert_eq!(choose(named, user, folder), PathBuf::from(expected));
        }
    }
}
