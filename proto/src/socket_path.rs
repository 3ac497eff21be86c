//! Where a daemon listens, and where clients look for one, when nobody says otherwise.
//!
//! Clients give their data to whoever listens where they look. So the folder must be the user's own, and nobody else
//! may write to it; both the daemon and its clients check that before they use it. In a folder like `/tmp` anybody
//! can be the first to make a file of some name.

use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

use crate::environment::trusted_variable;
use crate::socket_folder::{FolderTrust, WrongFolder, check_exists};
pub use crate::socket_folder::{SOCKET_VARIABLE, SocketFolderError, create_open};

/// The longest path that a socket can have, in bytes: the system's `sun_path`, without the zero at its end.
pub const MAX_SOCKET_PATH_BYTES: usize = 107;

/// Where root's daemon listens, which serves the whole machine.
pub const SYSTEM_SOCKET: &str = "/run/chimaera/chimaera.sock";

/// Where root's daemon listens for users, if there is a group of them.
pub const SYSTEM_USERS_SOCKET: &str = "/run/chimaera/users.sock";

const SOCKET_NAME: &str = "chimaera.sock";

/// A place for the daemon's socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SocketPlace {
    path: PathBuf,
    trust: FolderTrust,
    user: u32,
}

impl SocketPlace {
    /// Where a daemon of this user listens: the path in [`SOCKET_VARIABLE`], else [`SYSTEM_SOCKET`] for
    /// root, else `chimaera.sock` in `$XDG_RUNTIME_DIR`, else in `/run/user/UID` if that is the user's,
    /// else in `/tmp/chimaera-UID`. A variable that is empty or not trusted ([`trusted_variable`]) counts as one that
    /// is not set.
    #[must_use]
    pub fn own() -> Self {
        Self::choose(
            trusted_variable(SOCKET_VARIABLE),
            nix::unistd::Uid::effective().as_raw(),
            trusted_variable("XDG_RUNTIME_DIR"),
            Path::new("/run/user"),
            Path::new("/tmp"),
        )
    }

    fn choose(
        named: Option<OsString>,
        user: u32,
        runtime_folder: Option<OsString>,
        runtime_folders: &Path,
        temporary: &Path,
    ) -> Self {
        let place = |path: PathBuf, trust| Self { path, trust, user };
        let in_folder = |folder: PathBuf, trust| place(folder.join(SOCKET_NAME), trust);
        if let Some(path) = named {
            return place(path.into(), FolderTrust::Variable);
        }
        if user == 0 {
            return place(SYSTEM_SOCKET.into(), FolderTrust::System);
        }
        if let Some(folder) = runtime_folder {
            return in_folder(folder.into(), FolderTrust::Private);
        }
        let usual = in_folder(runtime_folders.join(user.to_string()), FolderTrust::Private);
        if usual.check().is_ok() {
            return usual;
        }
        let folder = temporary.join(format!("chimaera-{user}"));
        in_folder(folder, FolderTrust::AmongOthers)
    }

    /// Where clients look, in this order: the user's own place and, unless [`SOCKET_VARIABLE`] names
    /// one, those of the system: for operators and, where that one is not for this process, for users.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let own = Self::own();
        match own.trust {
            FolderTrust::Named | FolderTrust::Variable | FolderTrust::System => vec![own],
            FolderTrust::Private | FolderTrust::AmongOthers => {
                let user = own.user;
                let system = |path: &str| Self {
                    path: path.into(),
                    trust: FolderTrust::System,
                    user,
                };
                vec![own, system(SYSTEM_SOCKET), system(SYSTEM_USERS_SOCKET)]
            }
        }
    }

    /// A socket that somebody named.
    #[must_use]
    pub fn named(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            trust: FolderTrust::Named,
            user: nix::unistd::Uid::effective().as_raw(),
        }
    }

    /// The socket's path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Looks whether the folder is one in which only this user's daemon can listen.
    ///
    /// # Errors
    /// It is not, or it does not exist.
    pub fn check(&self) -> Result<(), SocketFolderError> {
        self.trust.check(self.folder(), self.user)
    }

    /// Makes the folder if it is missing, for a daemon that is to listen in it, and checks it. A folder that somebody
    /// named is not made: a name that leads nowhere is more likely a mistake.
    ///
    /// # Errors
    /// It does not exist, cannot be made, or is not one in which only this user's daemon can listen.
    pub fn prepare(&self) -> Result<(), SocketFolderError> {
        self.trust.prepare(self.folder(), self.user)
    }

    /// Whether somebody named the socket, and did not leave it to the defaults.
    #[must_use]
    pub const fn is_named(&self) -> bool {
        matches!(self.trust, FolderTrust::Named | FolderTrust::Variable)
    }

    /// Whether [`SOCKET_VARIABLE`] names it.
    #[must_use]
    pub const fn is_named_by_variable(&self) -> bool {
        matches!(self.trust, FolderTrust::Variable)
    }

    /// Looks whether a daemon can listen at a path that somebody named: its folder must exist, and nothing but a socket
    /// may lie at the path. Of a path that nobody named, the daemon takes care itself.
    ///
    /// # Errors
    /// It cannot.
    pub fn check_named(&self) -> Result<(), SocketFolderError> {
        if !self.is_named() {
            return Ok(());
        }
        check_exists(self.folder())?;
        // A link is not followed, since the daemon does not follow one either.
        match fs::symlink_metadata(&self.path) {
            Ok(found) if !found.file_type().is_socket() => {
                Err(WrongFolder::NoSocket.at(&self.path))
            }
            _ => Ok(()),
        }
    }

    fn folder(&self) -> &Path {
        match self.path.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        }
    }
}

/// Shows the path, and the variable if that names it.
impl fmt::Display for SocketPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        match self.trust {
            FolderTrust::Variable => write!(f, "{path} ({SOCKET_VARIABLE})"),
            _ => write!(f, "{path}"),
        }
    }
}

/// The path of this user's daemon's socket ([`SocketPlace::own`]).
#[must_use]
pub fn default_socket_path() -> PathBuf {
    SocketPlace::own().path
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::socket_folder::ALL_RIGHTS;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    /// The place below `folder` of a user for whom nothing is named.
    fn place(folder: &Path, user: u32) -> SocketPlace {
        SocketPlace::choose(None, user, None, &folder.join("run"), &folder.join("tmp"))
    }

    /// A folder that holds the parents of users' folders, and the user that runs this test. Root stands for a user:
    /// what is checked is that a folder is the user's.
    fn sandbox() -> (tempfile::TempDir, u32) {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["run", "tmp"] {
            fs::create_dir(folder.path().join(name)).expect("a folder");
        }
        let user = fs::metadata(folder.path()).expect("it is there").uid();
        (folder, user)
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its own");
    }

    #[test]
    fn the_variable_comes_first_and_root_has_its_own_place() {
        let some = |text: &str| Some(OsString::from(text));
        let cases = [
            (some("/a/b"), 0, some("/run/user/0"), "/a/b"),
            (None, 0, some("/run/user/0"), SYSTEM_SOCKET),
            (None, 1000, some("/x"), "/x/chimaera.sock"),
            (None, 1000, None, "/t/chimaera-1000/chimaera.sock"),
        ];
        for (named, user, folder, expected) in cases {
            let place = SocketPlace::choose(named, user, folder, Path::new("/r"), Path::new("/t"));
            assert_eq!(place.path(), Path::new(expected));
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "it sets modes of files")]
    fn the_users_runtime_folder_is_taken_only_if_it_is_the_users() {
        let (folder, owner) = sandbox();
        let user = owner.max(1);
        let runtime = folder.path().join("run").join(user.to_string());
        fs::create_dir(&runtime).expect("a folder");
        let mut place = place(folder.path(), user);
        let own = owner == user;
        assert_eq!(place.path().starts_with(&runtime), own);
        set_mode(&runtime, 0o777);
        place = super::tests::place(folder.path(), user);
        let expected = folder
            .path()
            .join(format!("tmp/chimaera-{user}/chimaera.sock"));
        assert_eq!(place.path(), expected);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it looks at folders")]
    fn a_folder_that_somebody_named_is_not_made() {
        let (folder, _) = sandbox();
        let path = folder.path().join("named/chimaera.sock");
        let place = SocketPlace::named(&path);
        let error = place.prepare().expect_err("it is not there");
        assert!(
            error.is_absent() && error.to_string().contains("make it"),
            "{error}"
        );
        assert!(!place.folder().exists());
        fs::write(place.folder(), "").expect("a file");
        let error = place.prepare().expect_err("it is a file");
        assert!(
            !error.is_absent() && error.to_string().contains("is not a folder"),
            "{error}"
        );
        fs::remove_file(place.folder()).expect("removed");
        fs::create_dir(place.folder()).expect("a folder");
        place.prepare().expect("it is there");
    }

    #[test]
    #[cfg_attr(miri, ignore = "it makes files")]
    fn what_is_not_a_socket_is_told_where_somebody_named_it() {
        let (folder, user) = sandbox();
        let path = folder.path().join("chimaera.sock");
        let place = SocketPlace::named(&path);
        let refused = || place.check_named().expect_err("not a socket").to_string();
        place.check_named().expect("nothing is there yet");
        symlink(folder.path().join("nowhere"), &path).expect("a link");
        assert!(refused().contains("chimaera.sock is not a socket"));
        fs::remove_file(&path).expect("removed");
        fs::write(&path, "").expect("a file");
        assert!(refused().contains("chimaera.sock is not a socket"));
        fs::remove_file(&path).expect("removed");
        let _listener = std::os::unix::net::UnixListener::bind(&path).expect("a socket");
        place.check_named().expect("a socket");
        let unnamed = among_others(folder.path(), user);
        unnamed.check_named().expect("the daemon makes it");
    }

    #[test]
    fn a_place_says_that_the_variable_names_it() {
        let by_variable = SocketPlace::choose(
            Some("/a/b".into()),
            1000,
            None,
            Path::new("/r"),
            Path::new("/t"),
        );
        assert_eq!(by_variable.to_string(), "/a/b (CHIMAERA_SOCKET)");
        assert_eq!(SocketPlace::named("/a/b").to_string(), "/a/b");
    }

    /// A place among others' folders, of the user that runs the test.
    fn among_others(folder: &Path, user: u32) -> SocketPlace {
        SocketPlace {
            path: folder.join("tmp/chimaera/chimaera.sock"),
            trust: FolderTrust::AmongOthers,
            user,
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "it looks at folders")]
    fn nobody_is_told_to_remove_a_folder_that_a_variable_names() {
        let (folder, user) = sandbox();
        let file = folder.path().join("file");
        fs::write(&file, "").expect("a file");
        for (named, user) in [(folder.path(), user + 1), (&file, user.max(1))] {
            let (runtime, tmp) = (Path::new("/run"), Path::new("/tmp"));
            let variable = Some(named.into());
            let place = SocketPlace::choose(None, user, variable, runtime, tmp);
            let text = place.check().expect_err("it is not the user's").to_string();
            assert!(text.contains("set XDG_RUNTIME_DIR to"), "{text}");
            assert!(!text.contains("remove"), "{text}");
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "it sets modes of files")]
    fn a_folder_among_others_is_made_for_the_user_alone() {
        let (folder, user) = sandbox();
        let place = among_others(folder.path(), user);
        assert!(place.check().expect_err("not there yet").is_absent());
        place.prepare().expect("is made");
        place.check().expect("is right");
        place.prepare().expect("is there");
        let mode = fs::metadata(place.folder()).expect("there").mode();
        assert_eq!(mode & ALL_RIGHTS, 0o700);
    }

    #[test]
    #[cfg_attr(miri, ignore = "it sets modes of files")]
    fn what_somebody_else_may_have_planted_is_refused_by_daemon_and_client() {
        let (folder, user) = sandbox();
        let place = among_others(folder.path(), user);
        let refused = |place: &SocketPlace, words: &str| {
            for error in [place.check(), place.prepare()].map(Result::unwrap_err) {
                let text = error.to_string();
                assert!(text.contains("tmp/chimaera "), "{text}");
                assert!(text.contains(words), "{words}: {text}");
                assert!(!error.is_absent());
            }
        };
        fs::write(place.folder(), "").expect("a file");
        refused(&place, "is not a folder");
        fs::remove_file(place.folder()).expect("removed");

        let elsewhere = folder.path().join("elsewhere");
        fs::create_dir(&elsewhere).expect("a folder");
        set_mode(&elsewhere, 0o700);
        symlink(&elsewhere, place.folder()).expect("a link");
        refused(&place, "is not a folder");
        fs::remove_file(place.folder()).expect("removed");
        symlink(folder.path().join("nowhere"), place.folder()).expect("a link");
        refused(&place, "is not a folder");
        fs::remove_file(place.folder()).expect("removed");

        fs::create_dir(place.folder()).expect("a folder");
        for mode in [0o755, 0o770, 0o1777] {
            set_mode(place.folder(), mode);
            refused(&place, &format!("(mode {mode:04o})"));
        }
        set_mode(place.folder(), 0o700);
        place.check().expect("is right");
        let stranger = among_others(folder.path(), user + 1);
        refused(
            &stranger,
            &format!("belongs to user {user}, not to user {}", user + 1),
        );
    }
}
