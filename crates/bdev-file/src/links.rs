//! Following a path by hand, so that each symbolic link is looked at that is followed.
//!
//! Whoever may write to a folder may put a link in the place of a file, and so choose what somebody else's command
//! writes to. The system follows such a link unless it lies in a sticky folder (`fs.protected_symlinks`).

use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use chimaera_proto::{ModuleError, Status};
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::geteuid;

use crate::path::{PathUse, refused};

/// Links that are followed on one path at most, as many as Linux follows.
const MAX_LINKS: u32 = 40;

/// Where a path leads.
#[derive(Debug)]
pub(crate) enum PathEnd {
    /// To this, which is open to be looked at only (`O_PATH`).
    Node(OwnedFd),
    /// To nothing: it would lie in this folder, and have this name.
    Nothing { folder: OwnedFd, name: OsString },
}

/// Follows a path, for something that writes there.
///
/// # Errors
/// The system's; [`Status::PermissionDenied`] for a symbolic link that belongs neither to root, nor to the calling
/// user, nor to the owner of what it leads to. Root's links are looked at wherever they are on the path, and those of
/// other users where they are its end.
pub(crate) fn follow(path: &Path, access: PathUse) -> Result<PathEnd, ModuleError> {
    let user = geteuid().as_raw();
    follow_as(path, access, user)
}

fn follow_as(path: &Path, access: PathUse, user: u32) -> Result<PathEnd, ModuleError> {
    let mut walk = Walk {
        user,
        links_left: MAX_LINKS,
    };
    let start = openat(AT_FDCWD, ".", FOLDER, Mode::empty());
    let ended = start.map_err(Stop::from).and_then(|folder| {
        let start = Place {
            folder,
            path: PathBuf::new(),
        };
        walk.go(start, path.as_os_str(), true)
    });
    ended.map_err(|stop| match stop {
        Stop::System(errno) => refused(access, path, &errno.into()),
        Stop::Link(link) => link.error(path),
    })
}

const NODE: OFlag = OFlag::O_PATH
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// With this, a file system is mounted that is mounted when it is needed.
const FOLDER: OFlag = NODE.union(OFlag::O_DIRECTORY);

/// Why a path is not followed to its end.
enum Stop {
    System(Errno),
    Link(DistrustedLink),
}

impl From<Errno> for Stop {
    fn from(errno: Errno) -> Self {
        Self::System(errno)
    }
}

/// A link that somebody else may have put in the way.
struct DistrustedLink {
    path: PathBuf,
    owner: u32,
    target: OsString,
}

impl DistrustedLink {
    fn error(&self, path: &Path) -> ModuleError {
        ModuleError::new(
            Status::PermissionDenied,
            format!(
                "{} is not written to: {} is a symbolic link to {}, which belongs to user {}, and what it leads to \
                 does not: name the file itself if it is meant, or remove the link",
                path.display(),
                self.path.display(),
                self.target.display(),
                self.owner
            ),
        )
    }
}

/// A folder on the way, and how it was reached.
struct Place {
    folder: OwnedFd,
    path: PathBuf,
}

struct Walk {
    user: u32,
    links_left: u32,
}

impl Walk {
    /// Follows a path from a folder on. `is_end` says whether what it leads to is what the whole path does.
    fn go(&mut self, start: Place, path: &OsStr, is_end: bool) -> Result<PathEnd, Stop> {
        let bytes = path.as_bytes();
        let mut names: Vec<_> = bytes
            .split(|&byte| byte == b'/')
            .filter(|name| !name.is_empty())
            .collect();
        if bytes.ends_with(b"/") {
            // Only a directory has it.
            names.push(b".");
        }
        let mut place = match bytes.starts_with(b"/") {
            true => Place {
                folder: openat(AT_FDCWD, "/", FOLDER, Mode::empty())?,
                path: PathBuf::from("/"),
            },
            false => start,
        };
        let (last, way) = names.split_last().ok_or(Errno::ENOENT)?;
        for name in way {
            let name = OsStr::from_bytes(name);
            let path = place.path.join(name);
            place = match self.step(place, name, FOLDER, false)? {
                PathEnd::Node(folder) => Place { folder, path },
                PathEnd::Nothing { .. } => return Err(Errno::ENOENT.into()),
            };
        }
        self.step(place, OsStr::from_bytes(last), NODE, is_end)
    }

    /// Follows one name in a folder.
    fn step(
        &mut self,
        place: Place,
        name: &OsStr,
        flags: OFlag,
        is_end: bool,
    ) -> Result<PathEnd, Stop> {
        let open = |flags| openat(&place.folder, name, flags, Mode::empty());
        let node = match open(flags) {
            // A link is no directory.
            Err(Errno::ENOTDIR) if flags == FOLDER => open(NODE)?,
            Err(Errno::ENOENT) => {
                return Ok(PathEnd::Nothing {
                    folder: place.folder,
                    name: name.to_owned(),
                });
            }
            node => node?,
        };
        let found = fstat(&node)?;
        let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
        match kind {
            SFlag::S_IFLNK => self.follow_link(place, name, (&node, found.st_uid), is_end),
            SFlag::S_IFDIR => Ok(PathEnd::Node(node)),
            _ if flags == FOLDER => Err(Errno::ENOTDIR.into()),
            _ => Ok(PathEnd::Node(node)),
        }
    }

    fn follow_link(
        &mut self,
        place: Place,
        name: &OsStr,
        (link, owner): (&OwnedFd, u32),
        is_end: bool,
    ) -> Result<PathEnd, Stop> {
        self.links_left = self.links_left.checked_sub(1).ok_or(Errno::ELOOP)?;
        let target = readlinkat(link, "")?;
        let path = place.path.join(name);
        let end = match fstatfs(link)?.filesystem_type() {
            // It leads to what a process has open, whatever its text says.
            PROC_SUPER_MAGIC => {
                let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
                PathEnd::Node(openat(&place.folder, name, flags, Mode::empty())?)
            }
            _ => self.go(place, &target, is_end)?,
        };
        let is_looked_at = is_end || self.user == 0;
        let is_trusted = owner == 0 || owner == self.user;
        if !is_looked_at || is_trusted {
            return Ok(end);
        }
        let leads_to_own = match &end {
            PathEnd::Node(node) => fstat(node)?.st_uid == owner,
            PathEnd::Nothing { .. } => false,
        };
        match leads_to_own {
            true => Ok(end),
            false => Err(Stop::Link(DistrustedLink {
                path,
                owner,
                target,
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, lchown, symlink};

    use super::*;

    const OWNER: u32 = 1001;
    const OTHER: u32 = 1002;

    /// The inode at the end of the path, or the refusal, for a command of this user.
    fn led(path: &Path, user: u32) -> Result<u64, String> {
        let end = follow_as(path, PathUse::Write, user).map_err(|error| error.message)?;
        Ok(match end {
            PathEnd::Node(node) => fstat(&node).expect("open").st_ino,
            PathEnd::Nothing { .. } => 0,
        })
    }

    #[test]
    fn a_path_leads_where_the_system_says() {
        let place = tempfile::tempdir().expect("a folder");
        let at = |name: &str| place.path().join(name);
        fs::create_dir_all(at("a/b")).expect("made");
        fs::write(at("a/file"), "").expect("written");
        for (target, link) in [
            ("a/file", "to_file"),
            ("to_file", "to_link"),
            ("a/b/../..", "to_itself"),
            ("circle", "circle"),
            ("a/new", "to_nothing"),
        ] {
            symlink(target, at(link)).expect("a link");
        }
        symlink(at("a"), at("absolute")).expect("a link");
        for name in [
            "a/file",
            "a/./b//../file",
            "to_link",
            "to_itself/to_itself/a/file",
            "absolute/file",
            "a/b/",
            "absolute/",
        ] {
            let inode = fs::metadata(at(name)).expect("there").ino();
            assert_eq!(led(&at(name), 0), Ok(inode), "{name}");
        }
        for name in ["a/new", "to_nothing"] {
            assert_eq!(led(&at(name), 0), Ok(0), "{name}");
        }
        for name in ["circle", "a/file/", "a/file/b", "nowhere/file", "to_file/."] {
            let error = fs::metadata(at(name)).expect_err("the system refuses it");
            let error = refused(PathUse::Write, &at(name), &error);
            assert_eq!(led(&at(name), 0), Err(error.message), "{name}");
        }
        let mine = format!("/proc/self/root{}", at("a/file").display());
        let inode = fs::metadata(at("a/file")).expect("there").ino();
        assert_eq!(led(Path::new(&mine), 0), Ok(inode));
    }

    #[test]
    fn a_link_is_followed_that_nobody_else_can_have_put_there() {
        if !geteuid().is_root() {
            return;
        }
        let place = tempfile::tempdir().expect("a folder");
        let at = |name: &str| place.path().join(name);
        fs::create_dir(at("folder")).expect("made");
        fs::write(at("folder/file"), "").expect("written");
        symlink("folder/file", at("link")).expect("a link");
        symlink("link", at("to_link")).expect("a link");
        symlink("folder", at("way")).expect("a link");
        let owned = |name: &str, user| lchown(at(name), Some(user), None).expect("root may");
        let inode = fs::metadata(at("link")).expect("there").ino();
        for (link_owner, target_owner, user, is_followed) in [
            (0, OTHER, OWNER, true),
            (OWNER, 0, OWNER, true),
            (OTHER, OTHER, OWNER, true),
            (OTHER, OTHER, 0, true),
            (OTHER, OWNER, OWNER, false),
            (OTHER, OWNER, 0, false),
            (OTHER, 0, 0, false),
        ] {
            owned("link", link_owner);
            owned("folder/file", target_owner);
            for path in ["link", "to_link"] {
                let led = led(&at(path), user);
                let case = format!("{path}: {link_owner} {target_owner} {user}");
                assert_eq!(led.is_ok(), is_followed, "{case}: {led:?}");
                assert!(led.is_ok_and(|led| led == inode) || !is_followed, "{case}");
            }
        }
        let refusal = led(&at("link"), 0).expect_err("refused");
        assert!(
            refusal.contains("belongs to user 1002") && refusal.contains("name the file itself"),
            "{refusal}"
        );
        // On the way, those are looked at that lead root.
        owned("way", OTHER);
        assert_eq!(led(&at("way/file"), OWNER), Ok(inode));
        let _ = led(&at("way/file"), 0).expect_err("refused");
        owned("folder", OTHER);
        assert_eq!(led(&at("way/file"), 0), Ok(inode));
    }
}
