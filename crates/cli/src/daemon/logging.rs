//! Where the daemon's log goes, and which of its lines.

use std::fmt::Write;
use std::fs::File;
use std::io::{self, IsTerminal, stderr};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::panic::PanicHookInfo;
use std::path::{Path, PathBuf};

use chimaera_client::proto::environment::trusted_variable;
use chimaera_client::proto::timestamp;
use chimaera_runtime::log::{self, Level, Line, LogHandle, Sink, Thresholds};
use chimaera_runtime::trusted_path::{self, PathDistrust};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::Uid;

use crate::failure::CommandFailure;

/// Environment variable that says what is logged, for example `debug`.
const VARIABLE: &str = "CHIMAERA_LOG";

/// How long the log's thread waits for room in a standard error that does not block.
const MAX_ROOM_WAIT_MS: u16 = 1000;

/// The mode of a log file: for its owner alone.
const MODE: u32 = 0o600;

/// Starts the log, and has panics logged. Panics of modules in libraries come through the host.
pub(super) fn start(
    thresholds: Thresholds,
    file: Option<&Path>,
) -> Result<LogHandle, CommandFailure> {
    let sink = StandardError {
        file: file.map(Path::to_path_buf),
        colour: stderr().is_terminal()
            && std::env::var_os("NO_COLOR").is_none_or(|no| no.is_empty()),
        line: String::new(),
        written: 0,
    };
    let running = log::start(sink, thresholds)
        .map_err(|error| CommandFailure::new(format!("cannot start the runtime: {error}")))?;
    std::panic::set_hook(Box::new(log_panic));
    Ok(running)
}

const IS_A_FOLDER: &str = "it is a folder: name a file in it";

/// Opens a file to log to, and makes it if it is missing: a regular file of root's or of this process's user that has
/// no other name. It is not opened through a symbolic link, and opening a pipe in its place does not wait for a reader.
///
/// # Errors
/// Something else is there; or this process is root's, and others could put something there; or the system refuses.
pub(super) fn open(path: &Path) -> io::Result<File> {
    let refused = |text: String| io::Error::new(io::ErrorKind::AlreadyExists, text);
    if path.is_dir() {
        return Err(refused(IS_A_FOLDER.to_owned()));
    }
    if Uid::effective().is_root() {
        let folder = path.parent().unwrap_or(Path::new("/"));
        trusted_path::check_folder(folder).map_err(|found| match found {
            PathDistrust::Open(open) => io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!("others could put another file there: {open}"),
            ),
            PathDistrust::Unknown(_, error) => error,
        })?;
    }

    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = File::options()
        .create(true)
        .append(true)
        .mode(MODE)
        .custom_flags(flags.bits())
        .open(path);
    let file = file.map_err(|error| {
        let in_the_way = match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::ELOOP) => {
                "it is a symbolic link, which a log does not follow: name the file itself"
            }
            Some(Errno::EISDIR) => IS_A_FOLDER,
            Some(Errno::ENXIO) => "it is a pipe that nobody reads, or a socket: name a file",
            _ => return error,
        };
        refused(in_the_way.to_owned())
    })?;
    let found = file.metadata()?;
    let in_the_way = if !found.is_file() {
        "it is not a regular file: name one"
    } else if found.nlink() > 1 {
        "it has another name as well (hard link), under which others may know it: remove it, or name another"
    } else if !trusted_path::is_owner_trusted(&found) {
        "it belongs to somebody else than root or this user: remove it, or name another"
    } else {
        return Ok(file);
    };
    Err(refused(in_the_way.to_owned()))
}

/// Standard error. For a detached daemon that is its log file, so that what system libraries write there stands in the
/// log.
///
/// It is written without the standard library's lock, which a thread that is stuck in a write would keep.
struct StandardError {
    /// The file to open when the log is to be opened again.
    file: Option<PathBuf>,
    colour: bool,
    /// The line that is being written.
    line: String,
    /// How many of its bytes are written.
    written: usize,
}

impl Sink for StandardError {
    fn write(&mut self, line: &Line) -> io::Result<()> {
        if self.line.is_empty() {
            self.line = show(line, self.colour);
        }
        while self.written < self.line.len() {
            match nix::unistd::write(stderr().as_fd(), &self.line.as_bytes()[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => self.written += count,
                Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => wait_for_room()?,
                Err(error) => return Err(error.into()),
            }
        }
        self.line.clear();
        self.written = 0;
        Ok(())
    }

    fn reopen(&mut self) -> io::Result<()> {
        let Some(path) = &self.file else {
            return Ok(());
        };
        nix::unistd::dup2_stderr(open(path)?)?;
        // A line of which the old file has a part is written whole into the new one.
        self.written = 0;
        Ok(())
    }
}

fn wait_for_room() -> io::Result<()> {
    let stderr = stderr();
    let mut room = [PollFd::new(stderr.as_fd(), PollFlags::POLLOUT)];
    match poll(&mut room, PollTimeout::from(MAX_ROOM_WAIT_MS)) {
        Ok(0) => Err(io::Error::new(
            io::ErrorKind::WouldBlock,
            "whoever is to read it does not",
        )),
        Ok(_) | Err(Errno::EINTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn show(line: &Line, colour: bool) -> String {
    let (level, code) = match line.level {
        Level::Error => ("ERROR", 31),
        Level::Warning => (" WARN", 33),
        Level::Info => (" INFO", 32),
        Level::Debug => ("DEBUG", 34),
    };
    let mut shown = timestamp::show_utc(line.time);
    // Writing to a string does not fail.
    let _ = match colour {
        true => write!(shown, " \u{1b}[{code}m{level}\u{1b}[0m "),
        false => write!(shown, " {level} "),
    };
    shown.push_str(&line.text);
    shown.push('\n');
    shown
}

/// Logs a panic as one line and, with `RUST_BACKTRACE`, its backtrace as further lines.
fn log_panic(panic: &PanicHookInfo<'_>) {
    chimaera_runtime::log_panic(panic);
    let trace = std::backtrace::Backtrace::capture();
    if trace.status() == std::backtrace::BacktraceStatus::Captured {
        trace.to_string().lines().for_each(log::error);
    }
}

/// What the environment says is to be logged.
pub(super) fn thresholds() -> Result<Thresholds, CommandFailure> {
    let Some(value) = trusted_variable(VARIABLE) else {
        return Ok(DEFAULT);
    };
    parse(&value.to_string_lossy()).map_err(|word| {
        CommandFailure::usage(format!(
            "{VARIABLE}: \"{}\" is no level of the log: it is off, error, warn, info (which is the \
             default) or debug, or one for each source, as in host=info,modules=debug",
            word.escape_default()
        ))
    })
}

const DEFAULT: Thresholds = Thresholds {
    host: Some(Level::Info),
    modules: Some(Level::Info),
};

/// Reads `LEVEL` and `SOURCE=LEVEL`, separated by commas. Later words override earlier ones.
///
/// # Errors
/// The word that is not understood.
fn parse(text: &str) -> Result<Thresholds, &str> {
    let mut thresholds = DEFAULT;
    let words = text.split(',').map(str::trim);
    for word in words.filter(|word| !word.is_empty()) {
        let (source, level) = word
            .split_once('=')
            .map_or((None, word), |(source, level)| (Some(source), level));
        let level = match level.to_ascii_lowercase().as_str() {
            "off" => None,
            "error" => Some(Level::Error),
            "warn" | "warning" => Some(Level::Warning),
            "info" => Some(Level::Info),
            "debug" | "trace" => Some(Level::Debug),
            _ => return Err(word),
        };
        match source {
            None => (thresholds.host, thresholds.modules) = (level, level),
            Some("host") => thresholds.host = level,
            Some("modules") => thresholds.modules = level,
            Some(_) => return Err(word),
        }
    }
    Ok(thresholds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_are_for_all_or_for_one_source() {
        for (text, host, modules) in [
            ("", Some(Level::Info), Some(Level::Info)),
            ("debug", Some(Level::Debug), Some(Level::Debug)),
            ("OFF", None, None),
            (
                "warn,modules=debug",
                Some(Level::Warning),
                Some(Level::Debug),
            ),
            ("host=error", Some(Level::Error), Some(Level::Info)),
        ] {
            assert_eq!(parse(text), Ok(Thresholds { host, modules }), "{text}");
        }
        for wrong in ["verbose", "info,debgu", "chimod=debug", "host=", "="] {
            let word = parse(wrong).expect_err(wrong);
            assert!(wrong.ends_with(word), "{word}");
        }
    }
}
