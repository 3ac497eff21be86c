//! A daemon of the test's own.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use chimaera_bdev_client::Runtime;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::build::{library_folder, program};
use crate::refusal::text;
use chimaera_testing::PATIENCE;
use chimaera_testing::{Watchdog, is_in_state, until, within};

/// A running daemon, killed on drop if it still runs then.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    /// `None` once it was taken over.
    folder: Option<TempDir>,
    log: Option<JoinHandle<()>>,
    log_so_far: Arc<Mutex<String>>,
    watchdog: Watchdog,
}

impl Daemon {
    /// Starts a daemon and waits until it serves.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[] as &[&str])
    }

    /// Starts a daemon with further arguments. Its plugin folders come before that of the built
    /// libraries.
    ///
    /// # Panics
    /// If it does not come to serve.
    #[must_use]
    pub fn start_with<S: AsRef<OsStr>>(arguments: &[S]) -> Self {
        let folder = TempDir::new().expect("a folder");
        Self::start_in(folder, arguments)
    }

    /// Starts a daemon with its socket in this folder, which may hold what another left behind.
    ///
    /// # Panics
    /// If it does not come to serve.
    #[must_use]
    pub fn start_in<S: AsRef<OsStr>>(folder: TempDir, arguments: &[S]) -> Self {
        let mut command = Command::new(program("chimaera"));
        command
            .args(["runtime", "start"])
            .args(arguments)
            .arg("--plugin-dir")
            .arg(library_folder());
        Self::start_by(command, folder)
    }

    /// Starts a daemon by a command of the test's own, with its socket in this folder.
    ///
    /// # Panics
    /// If it does not come to serve.
    #[must_use]
    pub fn start_by(command: Command, folder: TempDir) -> Self {
        Self::try_start(command, folder).unwrap_or_else(|refused| {
            panic!("the daemon ended with {:?}: {}", refused.code, refused.log)
        })
    }

    /// As [`Self::start_by`], for a daemon that may not come to serve.
    ///
    /// # Errors
    /// It ended instead.
    ///
    /// # Panics
    /// If it does neither.
    pub fn try_start(mut command: Command, folder: TempDir) -> Result<Self, FailedStart> {
        command
            .arg("--socket")
            .arg(folder.path().join("chimaera.sock"))
            .env_remove("CHIMAERA_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the daemon starts");
        let watchdog = Watchdog::with_daemon(child.id());
        let stdout = child.stdout.take().expect("piped");
        let mut stderr = child.stderr.take().expect("piped");
        let log_so_far = Arc::new(Mutex::new(String::new()));
        let shared = Arc::clone(&log_so_far);
        let log = std::thread::spawn(move || {
            let mut piece = [0; 4096];
            while let Ok(len @ 1..) = stderr.read(&mut piece) {
                let mut text = shared.lock().unwrap_or_else(PoisonError::into_inner);
                text.push_str(&String::from_utf8_lossy(&piece[..len]));
            }
        });
        let ready = within("the start of the daemon", move || {
            let mut line = String::new();
            BufReader::new(stdout)
                .read_line(&mut line)
                .expect("the daemon's output");
            line
        });
        let mut daemon = Self {
            child,
            folder: Some(folder),
            log: Some(log),
            log_so_far,
            watchdog,
        };
        if ready.starts_with("ready") {
            return Ok(daemon);
        }
        let (code, log) = daemon.wait();
        let folder = daemon.folder.take().expect("there until taken over");
        Err(FailedStart { code, log, folder })
    }

    /// Starts a daemon that writes to places of the test's own, and waits until it takes clients.
    ///
    /// # Panics
    /// If it does not.
    #[must_use]
    pub fn start_writing_to(stdout: impl Into<Stdio>, stderr: impl Into<Stdio>) -> Self {
        let folder = TempDir::new().expect("a folder");
        let mut command = Command::new(program("chimaera"));
        command
            .args(["runtime", "start", "--plugin-dir"])
            .arg(library_folder())
            .arg("--socket")
            .arg(folder.path().join("chimaera.sock"))
            .env_remove("CHIMAERA_LOG")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr);
        let child = command.spawn().expect("the daemon starts");
        let watchdog = Watchdog::with_daemon(child.id());
        let mut daemon = Self {
            child,
            folder: Some(folder),
            log: None,
            log_so_far: Arc::default(),
            watchdog,
        };
        until("the daemon takes clients", || {
            let ended = daemon.child.try_wait().expect("it was started");
            assert_eq!(ended, None, "the daemon ended");
            Runtime::connect_to(daemon.socket()).is_ok()
        });
        daemon
    }

    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder().join("chimaera.sock")
    }

    /// A folder for the test's files, removed with the daemon.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.as_ref().expect("there until taken over").path()
    }

    /// Kills the daemon with SIGKILL and gives its folder, for another daemon to take over.
    ///
    /// # Panics
    /// If it is gone.
    #[must_use]
    pub fn kill_and_leave(mut self) -> TempDir {
        self.kill();
        self.folder.take().expect("there until taken over")
    }

    /// Gives the folder of a daemon that has ended, for another one to take over.
    ///
    /// # Panics
    /// If that was done before.
    #[must_use]
    pub fn leave(mut self) -> TempDir {
        self.folder.take().expect("there until taken over")
    }

    /// Connects the test itself to the daemon.
    ///
    /// # Panics
    /// If it cannot.
    #[must_use]
    pub fn connect(&self) -> Runtime {
        Runtime::connect_to(self.socket()).expect("the daemon welcomes its clients")
    }

    /// What `runtime status --json` prints.
    ///
    /// # Panics
    /// If it is no JSON.
    #[must_use]
    pub fn status(&self) -> Value {
        let text = self.run(&["runtime", "status", "--json"]).success();
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// How many clients the daemon counts, besides the one that asks.
    ///
    /// # Panics
    /// If it does not say.
    #[must_use]
    pub fn sessions(&self) -> u64 {
        self.status()["sessions"].as_u64().expect("a number") - 1
    }

    /// The daemon's process id.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// A command of the program that talks to this daemon.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program("chimaera"));
        command.args(arguments).arg("--socket").arg(self.socket());
        command
    }

    /// Runs a command of the program against this daemon.
    ///
    /// # Panics
    /// If it does not end.
    pub fn run(&self, arguments: &[&str]) -> ProgramOutput {
        finish(self.command(arguments))
    }

    /// Runs the command that creates a pool on a file of this size.
    ///
    /// # Panics
    /// If it does not end.
    pub fn create_file_pool(&self, file: &Path, size: &str) -> ProgramOutput {
        let create = ["pool", "create", text(file), "--type", "file"];
        self.run(&[&create[..], &["--size", size]].concat())
    }

    /// What the daemon has logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        let text = self.log_so_far.lock();
        text.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Kills the daemon with SIGKILL and gives its log.
    pub fn kill(&mut self) -> String {
        self.signal(Signal::SIGKILL);
        self.wait().1
    }

    /// Sends the daemon a signal.
    pub fn signal(&self, signal: Signal) {
        // A daemon that is gone already is what the caller wants or will find out.
        let _ = kill(Pid::from_raw(self.child.id() as i32), signal);
    }

    /// Sends the daemon a signal again and again until it has ended.
    ///
    /// # Panics
    /// If it does not end.
    pub fn insist(&self, signal: Signal) {
        let folder = format!("/proc/{}", self.child.id());
        until("the end of the daemon", || {
            self.signal(signal);
            is_in_state(&folder, 'Z')
        });
    }

    /// Whether the daemon's process has ended, with all of its threads.
    ///
    /// # Panics
    /// If the system does not say.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        let process = Id::Pid(Pid::from_raw(self.child.id() as i32));
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT | WaitPidFlag::WNOHANG;
        waitid(process, flags).expect("a child of this process") != WaitStatus::StillAlive
    }

    /// Waits for the daemon to end by itself. Gives its exit code and its log.
    ///
    /// # Panics
    /// If it does not end.
    pub fn wait(&mut self) -> (Option<i32>, String) {
        let process = Pid::from_raw(self.child.id() as i32);
        within("the end of the daemon", move || {
            let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT;
            let _ = waitid(Id::Pid(process), flags);
        });
        self.watchdog.let_go_of_the_daemon();
        let status = self.child.wait().expect("the daemon was started");
        (status.code(), self.whole_log())
    }

    /// The log of a daemon that has ended.
    fn whole_log(&mut self) -> String {
        if let Some(log) = self.log.take() {
            let _ = log.join();
        }
        self.log()
    }
}

/// What is left of a daemon that did not come to serve.
#[derive(Debug)]
pub struct FailedStart {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to its error output.
    pub log: String,
    /// The folder of its socket.
    pub folder: TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.watchdog.let_go_of_the_daemon();
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.whole_log();
        if std::thread::panicking() {
            eprint_log(&log);
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "a failed test shows what its daemon had to say"
)]
fn eprint_log(log: &str) {
    eprintln!("--- the daemon's log ---\n{log}");
}

/// What a program left behind.
#[derive(Debug)]
pub struct ProgramOutput {
    /// Its exit code; `None` if a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to its output.
    pub stdout: String,
    /// What it wrote to its error output.
    pub stderr: String,
}

impl ProgramOutput {
    /// The output of a program that must have succeeded.
    ///
    /// # Panics
    /// If it has not.
    #[must_use]
    pub fn success(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.stdout
    }

    /// The error output of a program that must have failed with this code.
    ///
    /// # Panics
    /// If it has not.
    pub fn failure(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        self.stderr
    }
}

/// Runs a program to its end.
///
/// # Panics
/// If it cannot be started or does not end, and is killed for that.
pub fn finish(mut command: Command) -> ProgramOutput {
    let what = format!("{command:?}");
    command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let child = command.spawn().expect("the program starts");
    let process = Pid::from_raw(child.id() as i32);
    let (done, ended) = channel();
    std::thread::spawn(move || done.send(child.wait_with_output()));
    let Ok(output) = ended.recv_timeout(PATIENCE) else {
        // The process was not collected yet, so the id is still its own.
        let _ = kill(process, Signal::SIGKILL);
        panic!("{what} takes longer than {PATIENCE:?}");
    };
    let output = output.expect("the program's output");
    ProgramOutput {
        code: output.status.code(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
