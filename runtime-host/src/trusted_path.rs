//! Whether somebody else could put another file where a path leads.
//!
//! A path leads through folders and links. Whoever may write one of these folders may put something else there, and
//! who owns a folder may give himself the right to. So each folder on the way, also those that only hold a link, has to
//! belong to root or to this process's user, and nobody else may write it. In a sticky folder, such as `/tmp`, others
//! make files of their own and cannot replace what belongs to the two: such a folder may lie on the way, but what is
//! the next on the way must be theirs.
//!
//! What is found stays so as far as anybody else is concerned, since it is they who could change it.
//!
//! Owners and modes are looked at, and no access control lists. One of POSIX that lets somebody write shows in the
//! mode, as the group's right to write; lists of other kinds (NFSv4) do not.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};

use chimaera_proto::shown::printable;
use nix::errno::Errno;
use nix::unistd::Uid;

/// Links that are followed at most, as by the system.
const MAX_LINKS: usize = 40;

const WRITABLE_BY_OTHERS: u32 = 0o022;
const STICKY: u32 = 0o1000;
const ALL_RIGHTS: u32 = 0o7777;

/// Why what a path leads to is not certain.
#[derive(Debug)]
pub enum PathDistrust {
    /// Somebody else can change it.
    Open(OpenPath),
    /// It cannot be examined, since the system refuses a look at this place.
    Unknown(PathBuf, io::Error),
}

/// A file or folder that others than root and this process's user can change.
#[derive(Debug)]
pub struct OpenPath {
    path: PathBuf,
    is_folder: bool,
    owner: u32,
    mode: u32,
    user: u32,
}

impl fmt::Display for OpenPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display().to_string();
        let (path, user) = (printable(&path), self.user);
        let kind = if self.is_folder { "folder" } else { "file" };
        let users = match user {
            0 => "root".to_owned(),
            _ => format!("root or user {user}"),
        };
        write!(f, "the {kind} {path} ")?;
        let remedy = if is_trusted(self.owner, user) {
            write!(f, "can be written by others than its owner")?;
            match self.mode & STICKY {
                0 => "take that right from group and others (`chmod go-w`)",
                _ => "make a folder in it that nobody else may write",
            }
        } else {
            write!(f, "belongs to somebody else than {users}")?;
            "give it to one whom that permits (`chown`)"
        };
        let (owner, mode) = (self.owner, self.mode);
        write!(
            f,
            " (owner: user {owner}, mode {mode:04o}): {remedy}, or choose another place"
        )
    }
}

impl fmt::Display for PathDistrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Open(open) => open.fmt(f),
            Self::Unknown(path, error) => {
                let path = path.display().to_string();
                write!(f, "cannot examine {}: {error}", printable(&path))
            }
        }
    }
}

/// Looks whether only root and this process's user can change what file a path leads to. The file itself is not
/// examined: see [`check_file`].
///
/// # Errors
/// Others can, or that cannot be known.
pub fn check_way(path: &Path) -> Result<(), PathDistrust> {
    walk(path, own_user()).map(drop)
}

/// Looks whether only root and this process's user can make and replace files in a folder. A sticky folder in which
/// others make files is not such a one.
///
/// # Errors
/// Others can, or that cannot be known.
pub fn check_folder(path: &Path) -> Result<(), PathDistrust> {
    let user = own_user();
    let (real, found) = walk(path, user)?;
    check(&real, &found, user)
}

/// Looks whether only root and this process's user can write an open file.
///
/// # Errors
/// Others can.
pub fn check_file(path: &Path, file: &Metadata) -> Result<(), PathDistrust> {
    check(path, file, own_user())
}

/// Whether a file belongs to root or to this process's user.
#[must_use]
pub fn is_owner_trusted(file: &Metadata) -> bool {
    is_trusted(file.uid(), own_user())
}

fn own_user() -> u32 {
    Uid::effective().as_raw()
}

fn is_trusted(owner: u32, user: u32) -> bool {
    owner == 0 || owner == user
}

fn check(path: &Path, found: &Metadata, user: u32) -> Result<(), PathDistrust> {
    if is_trusted(found.uid(), user) && found.mode() & WRITABLE_BY_OTHERS == 0 {
        return Ok(());
    }
    Err(open(path, found, user))
}

fn open(path: &Path, found: &Metadata, user: u32) -> PathDistrust {
    PathDistrust::Open(OpenPath {
        path: path.to_owned(),
        is_folder: found.is_dir(),
        owner: found.uid(),
        mode: found.mode() & ALL_RIGHTS,
        user,
    })
}

/// Goes a path as the system does, and examines each folder on the way for what comes next. Gives where it leads and
/// what is there.
fn walk(path: &Path, user: u32) -> Result<(PathBuf, Metadata), PathDistrust> {
    let unknown = |path: &Path, error| PathDistrust::Unknown(path.to_owned(), error);
    let whole = std::path::absolute(path).map_err(|error| unknown(path, error))?;
    let mut left = VecDeque::new();
    prepend(&mut left, &whole);
    let look = |path: &Path| fs::symlink_metadata(path).map_err(|error| unknown(path, error));
    let mut place = PathBuf::from("/");
    let mut found = look(&place)?;
    let mut links = 0;
    while let Some(step) = left.pop_front() {
        if step == ".." {
            place.pop();
            found = look(&place)?;
            continue;
        }
        let next = place.join(&step);
        let entry = look(&next)?;
        check_step((&place, &found), (&next, &entry), user)?;
        if !entry.is_symlink() {
            (place, found) = (next, entry);
            continue;
        }
        links += 1;
        if links > MAX_LINKS {
            return Err(unknown(path, Errno::ELOOP.into()));
        }
        let target = fs::read_link(&next).map_err(|error| unknown(&next, error))?;
        if target.is_absolute() {
            place = PathBuf::from("/");
            found = look(&place)?;
        }
        prepend(&mut left, &target);
    }
    Ok((place, found))
}

/// Examines a folder for the entry of it by which a path goes on.
fn check_step(
    (folder, found): (&Path, &Metadata),
    (path, entry): (&Path, &Metadata),
    user: u32,
) -> Result<(), PathDistrust> {
    let is_sticky = found.mode() & STICKY != 0;
    if !is_trusted(found.uid(), user) || !is_sticky {
        return check(folder, found, user);
    }
    match found.mode() & WRITABLE_BY_OTHERS == 0 || is_trusted(entry.uid(), user) {
        true => Ok(()),
        false => Err(open(path, entry, user)),
    }
}

fn prepend(left: &mut VecDeque<OsString>, path: &Path) {
    for part in path.components().rev() {
        match part {
            Component::Normal(name) => left.push_front(name.to_owned()),
            Component::ParentDir => left.push_front("..".into()),
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown, symlink};

    use chimaera_testing::is_root;

    use super::*;

    const SOMEBODY: u32 = 12345;

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its own");
    }

    fn give_away(path: &Path) {
        std::os::unix::fs::lchown(path, Some(SOMEBODY), None).expect("root may");
    }

    /// A folder of folders: `outer/inner/file`.
    fn folders() -> (tempfile::TempDir, PathBuf, PathBuf, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        // As the system's temporary folder may be a link.
        let outer = folder.path().canonicalize().expect("there").join("outer");
        let inner = outer.join("inner");
        let file = inner.join("file");
        fs::create_dir_all(&inner).expect("folders");
        fs::write(&file, "").expect("a file");
        for folder in [&outer, &inner] {
            set_mode(folder, 0o755);
        }
        (folder, outer, inner, file)
    }

    #[track_caller]
    fn refused(result: Result<(), PathDistrust>, path: &Path, words: &str) {
        let text = result.expect_err("others can change it").to_string();
        let path = path.display().to_string();
        assert!(text.contains(&format!(" {path} ")), "{path}: {text}");
        assert!(text.contains(words), "{words}: {text}");
    }

    #[test]
    fn a_folder_on_the_way_that_others_may_write_is_named_with_its_mode() {
        let (_folder, outer, inner, file) = folders();
        check_way(&file).expect("nobody else can change it");
        for mode in [0o775, 0o757, 0o777] {
            set_mode(&outer, mode);
            refused(check_way(&file), &outer, &format!("mode {mode:04o}"));
            refused(check_folder(&inner), &outer, "chmod go-w");
        }
        // By the way back as well.
        refused(check_way(&inner.join("../inner/file")), &outer, "chmod");
        set_mode(&outer, 0o755);
        set_mode(&inner, 0o775);
        refused(check_way(&file), &inner, "chmod go-w");
        refused(check_folder(&inner), &inner, "chmod go-w");
    }

    #[test]
    fn a_sticky_folder_may_lie_on_the_way_but_holds_no_socket() {
        let (_folder, outer, inner, file) = folders();
        set_mode(&outer, 0o1777);
        check_way(&file).expect("what lies in it is this user's");
        check_folder(&inner).expect("what lies in it is this user's");
        refused(check_folder(&outer), &outer, "mode 1777");
        if is_root("a stranger's folder in a sticky one") {
            give_away(&inner);
            refused(check_way(&file), &inner, "owner: user 12345");
        }
    }

    #[test]
    fn a_link_leads_through_its_own_folder_and_that_of_its_target() {
        let (_folder, outer, inner, file) = folders();
        let links = outer.join("links");
        fs::create_dir(&links).expect("a folder");
        set_mode(&links, 0o755);
        for target in [&*file, Path::new("../inner/file")] {
            let link = links.join("link");
            symlink(target, &link).expect("a link");
            check_way(&link).expect("nobody else can change it");
            set_mode(&links, 0o777);
            refused(check_way(&link), &links, "mode 0777");
            set_mode(&links, 0o755);
            set_mode(&inner, 0o777);
            refused(check_way(&link), &inner, "mode 0777");
            set_mode(&inner, 0o755);
            fs::remove_file(link).expect("removed");
        }
        let round = links.join("round");
        symlink(&round, &round).expect("a link");
        let error = check_way(&round).expect_err("it leads nowhere");
        assert!(matches!(error, PathDistrust::Unknown(..)), "{error}");
    }

    #[test]
    fn what_belongs_to_somebody_else_is_named_with_its_owner() {
        if !is_root("files of somebody else") {
            return;
        }
        let (_folder, outer, inner, file) = folders();
        give_away(&file);
        let found = fs::metadata(&file).expect("there");
        refused(check_file(&file, &found), &file, "owner: user 12345");
        check_way(&file).expect("he can change the file, and put no other there");
        give_away(&outer);
        refused(check_way(&file), &outer, "belongs to somebody else");
        chown(&outer, Some(0), None).expect("root may");
        give_away(&inner);
        refused(check_folder(&inner), &inner, "chown");
    }
}
