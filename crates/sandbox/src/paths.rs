//! Files and network, by Landlock.
//!
//! What is open already, and what somebody passes, can be used: only opening is restricted. A rule is about the file
//! that its path leads to when it is made.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, LandlockStatus, PathBeneath, PathFd, Ruleset,
    RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};

use crate::{Files, SandboxMeasure};

pub(crate) const FILES: &str = "paths";
const NETWORK: &str = "network";
const PROCESSES: &str = "processes";

/// The newest version of Landlock whose rights are known here. Those that the kernel does not know are left out.
const KNOWN: ABI = ABI::V7;

/// What no daemon does with a path, whatever paths it opens.
fn never() -> BitFlags<AccessFs> {
    AccessFs::Execute | AccessFs::MakeChar | AccessFs::MakeBlock | AccessFs::MakeFifo
}

/// What is done beneath a folder that files are changed in.
fn changes() -> BitFlags<AccessFs> {
    let rights = AccessFs::ReadFile
        | AccessFs::ReadDir
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::RemoveFile
        | AccessFs::MakeReg
        | AccessFs::MakeSock;
    rights | AccessFs::IoctlDev
}

/// Restricts what this thread, and those that it starts, can open and connect to.
///
/// # Errors
/// The kernel's, where it knows Landlock.
pub(crate) fn restrict(files: &Files) -> io::Result<Vec<SandboxMeasure>> {
    let (landlock, missing) = apply(files).map_err(|error| cause(&*error))?;
    Ok(said(version_of(landlock), files, &missing))
}

/// The system's error of which another one is made.
fn cause(error: &(dyn Error + 'static)) -> io::Error {
    let mut next = Some(error);
    while let Some(error) = next {
        let of_system = error.downcast_ref::<io::Error>();
        if let Some(errno) = of_system.and_then(io::Error::raw_os_error) {
            return io::Error::from_raw_os_error(errno);
        }
        next = error.source();
    }
    io::Error::other(error.to_string())
}

/// What is said where nothing is restricted, for this reason.
pub(crate) fn unrestricted(why: impl Into<String>) -> Vec<SandboxMeasure> {
    let why = why.into();
    let say = |name| SandboxMeasure::missing(name, format!("not restricted: {why}"));
    vec![say(FILES), say(NETWORK), say(PROCESSES)]
}

/// The version of Landlock that is in force; 0 where there is none.
fn version_of(landlock: LandlockStatus) -> i32 {
    match landlock {
        LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
        LandlockStatus::Available { effective_abi, .. } => effective_abi as i32,
    }
}

/// Restricts, and gives what of Landlock there is, and the paths that are not there.
fn apply(files: &Files) -> Result<(LandlockStatus, Vec<PathBuf>), Box<dyn Error>> {
    let handled = match files.any {
        Some(_) => never(),
        None => AccessFs::from_all(KNOWN),
    };
    let mut rules = Ruleset::default()
        .handle_access(handled)?
        .handle_access(AccessNet::from_all(KNOWN))?
        .scope(Scope::from_all(KNOWN))?
        .create()?;
    let mut missing = Vec::new();
    if files.any.is_none() {
        let read = AccessFs::ReadFile | AccessFs::ReadDir;
        let all = files.read.iter().map(|path| (path, read));
        let all = all.chain(files.change.iter().map(|path| (path, changes())));
        for (path, rights) in all {
            let place = match PathFd::new(path) {
                Ok(place) => place,
                Err(error) if means_missing(&cause(&error)) => {
                    missing.push(path.clone());
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            // What means nothing for a file is not asked for.
            let rights = match path.is_dir() {
                true => rights,
                false => rights & AccessFs::from_file(KNOWN),
            };
            rules = rules.add_rule(PathBeneath::new(place, rights))?;
        }
    }
    let status = rules.restrict_self()?;
    match status.ruleset {
        RulesetStatus::NotEnforced => Ok((LandlockStatus::NotImplemented, missing)),
        _ => Ok((status.landlock, missing)),
    }
}

/// Whether there is no such path for this process, so that it has no use for it.
fn means_missing(error: &io::Error) -> bool {
    let kinds = [
        io::ErrorKind::NotFound,
        io::ErrorKind::NotADirectory,
        io::ErrorKind::PermissionDenied,
    ];
    kinds.contains(&error.kind())
}

/// What is in force under a version of Landlock, and what the kernel does not have.
fn said(version: i32, files: &Files, missing: &[PathBuf]) -> Vec<SandboxMeasure> {
    if version < 1 {
        return unrestricted(
            "this kernel has no Landlock (Linux 5.13), or it is not enabled there",
        );
    }
    let network = match version {
        ..4 => SandboxMeasure::missing(
            NETWORK,
            "not restricted: this kernel's Landlock does not know it (Linux 6.7 does)",
        ),
        _ => SandboxMeasure::in_force(NETWORK, "no TCP connection is made, and no port opened"),
    };
    let processes = match version {
        ..6 => SandboxMeasure::missing(
            PROCESSES,
            "others can be sent signals: this kernel's Landlock does not know them (Linux 6.12 does)",
        ),
        _ => SandboxMeasure::in_force(
            PROCESSES,
            "no other process is sent a signal, traced, or reached by an abstract socket",
        ),
    };
    vec![said_of_files(version, files, missing), network, processes]
}

fn said_of_files(version: i32, files: &Files, missing: &[PathBuf]) -> SandboxMeasure {
    if let Some(why) = &files.any {
        return SandboxMeasure::missing(
            FILES,
            format!("not restricted, as {why}; nothing is executed"),
        );
    }
    let list = |paths: &[PathBuf]| {
        let shown = paths.iter().filter(|path| !missing.contains(path));
        let shown: Vec<_> = shown.map(|path| path.display().to_string()).collect();
        match shown.is_empty() {
            true => "nothing".to_owned(),
            false => shown.join(", "),
        }
    };
    // A file that is not opened for writing may be cut off until Linux 6.2.
    let cut = match version {
        ..3 => {
            "; files elsewhere can be cut off: this kernel's Landlock does not know that (Linux 6.2 does)"
        }
        _ => "",
    };
    let text = format!(
        "nothing is executed; changed is {}; read is {}{cut}",
        list(&files.change),
        list(&files.read)
    );
    match version {
        ..3 => SandboxMeasure::missing(FILES, text),
        _ => SandboxMeasure::in_force(FILES, text),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::ErrorKind;

    use super::*;

    fn in_force(version: i32) -> [bool; 3] {
        let said = said(version, &Files::default(), &[]);
        let names: Vec<_> = said.iter().map(|measure| measure.name).collect();
        assert_eq!(names, [FILES, NETWORK, PROCESSES], "{version}");
        std::array::from_fn(|at| said[at].in_force)
    }

    #[test]
    fn nothing_is_claimed_that_an_older_kernel_does_not_have() {
        assert_eq!(in_force(0), [false, false, false]);
        assert_eq!(in_force(1), [false, false, false]);
        assert_eq!(in_force(3), [true, false, false]);
        assert_eq!(in_force(4), [true, true, false]);
        assert_eq!(in_force(6), [true, true, true]);
        assert_eq!(in_force(99), [true, true, true]);
    }

    #[test]
    fn a_daemon_that_opens_any_path_says_why() {
        let files = Files {
            any: Some("it is its user's own".to_owned()),
            ..Files::default()
        };
        let said = &said(7, &files, &[])[0];
        assert!(!said.in_force);
        assert!(said.text.contains("it is its user's own"), "{}", said.text);
    }

    #[test]
    fn only_what_was_named_can_be_opened() {
        let folder = tempfile::TempDir::new().expect("a folder");
        let at = |name: &str| folder.path().join(name);
        for name in ["read", "changed", "other"] {
            fs::create_dir(at(name)).expect("made");
            fs::write(at(name).join("file"), "text").expect("written");
        }
        let files = Files {
            any: None,
            read: vec![at("read"), at("is not there")],
            change: vec![at("changed")],
        };
        let in_thread = std::thread::scope(|scope| {
            let inner = scope.spawn(|| {
                let said = restrict(&files).expect("the kernel does not refuse it");
                let kind = |result: std::io::Result<()>| result.map_err(|error| error.kind());
                let read = |name: &str| kind(fs::read(at(name).join("file")).map(drop));
                let write = |name: &str| kind(fs::write(at(name).join("file"), "new"));
                (
                    said,
                    [read("read"), read("changed"), read("other")],
                    [write("read"), write("changed"), write("other")],
                )
            });
            inner.join().expect("no panic")
        });
        let (said, reads, writes) = in_thread;
        if version_in(&said) {
            let denied = Err(ErrorKind::PermissionDenied);
            assert_eq!(reads, [Ok(()), Ok(()), denied]);
            assert_eq!(writes, [denied, Ok(()), denied]);
        }
    }

    /// Whether files are restricted at all on this kernel.
    fn version_in(said: &[SandboxMeasure]) -> bool {
        !said[0].text.starts_with("not restricted")
    }
}
