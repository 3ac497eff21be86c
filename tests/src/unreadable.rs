//! A part of a file that cannot be read until it is written, as with bad sectors of a drive.
//!
//! Programs get a library before all others that fails their reads. I/O of blocks' data does not go through it.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::{Daemon, ProgramOutput, finish, library_folder, program};

const PAGE: u64 = 4096;

/// A part of a file that programs cannot read.
#[derive(Debug)]
pub struct Unreadable {
    folder: TempDir,
    file: PathBuf,
    bytes: Range<u64>,
}

impl Unreadable {
    /// These bytes of a file, which are whole pages.
    ///
    /// # Panics
    /// If there is no C compiler.
    #[must_use]
    pub fn new(file: &Path, bytes: Range<u64>) -> Self {
        let this = Self {
            folder: TempDir::new().expect("a folder"),
            file: file.to_owned(),
            bytes,
        };
        let source = this.folder.path().join("unreadable.c");
        fs::write(&source, include_str!("unreadable.c")).expect("a source");
        let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compiler.args(["-shared", "-fPIC", "-o"]);
        compiler.arg(this.library()).arg(&source);
        let _ = finish(compiler).success();
        this.forget();
        this
    }

    /// Makes all of it unreadable again.
    ///
    /// # Panics
    /// If that cannot be noted.
    pub fn forget(&self) {
        let pages = (self.bytes.end - self.bytes.start) / PAGE;
        fs::write(self.notes(), vec![0; pages as usize]).expect("noted");
    }

    /// How many pages of it can be read again.
    ///
    /// # Panics
    /// If that is not noted.
    #[must_use]
    pub fn written_pages(&self) -> usize {
        let notes = fs::read(self.notes()).expect("noted");
        notes.iter().filter(|written| **written != 0).count()
    }

    /// Runs the program with no daemon in mind.
    #[must_use]
    pub fn run(&self, arguments: &[&str]) -> ProgramOutput {
        let mut command = self.command();
        command.args(arguments).env_remove("CHIMAERA_SOCKET");
        finish(command)
    }

    /// Starts a daemon.
    #[must_use]
    pub fn daemon(&self) -> Daemon {
        let mut command = self.command();
        command
            .args(["runtime", "start", "--plugin-dir"])
            .arg(library_folder());
        Daemon::start_by(command, TempDir::new().expect("a folder"))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(program("chimaera"));
        command
            .env("LD_PRELOAD", self.library())
            .env("UNREADABLE_FILE", &self.file)
            .env("UNREADABLE_FROM", self.bytes.start.to_string())
            .env("UNREADABLE_NOTES", self.notes());
        command
    }

    fn library(&self) -> PathBuf {
        self.folder.path().join("unreadable.so")
    }

    fn notes(&self) -> PathBuf {
        self.folder.path().join("notes")
    }
}
