//! A view of the machine of the test's own, in which programs of several users run.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::build::program;
use crate::commands::json;
use crate::daemon::{ProgramOutput, finish};
use chimaera_testing::{is_root, skipped};

/// Root.
pub const ROOT: u32 = 0;
/// A user who may do nothing in particular.
pub const NOBODY: u32 = 65532;
/// Another one.
pub const SOMEBODY_ELSE: u32 = 65533;

/// Where the program lies in the sandbox: where every user finds it.
const PROGRAM: &str = "/run/program/chimaera";

/// A mount namespace with a `/run` and a `/tmp` of its own. What is to be started in it runs as a user of
/// the test's choice, with an environment of the test's choice and no other.
#[derive(Debug)]
pub struct Sandbox {
    holder: Child,
}

/// The shell that makes the sandbox, which stays as long as the shell. The shell ends with its input.
const SETUP: &str = "
set -e
program=$1
mount -t tmpfs -o mode=0755 none /run
mkdir /run/program
cp \"$program\" /run/program/chimaera
chmod 0755 /run/program /run/program/chimaera
mount -t tmpfs -o mode=1777 none /tmp
# A group that the daemon is for by default may be on the machine, and is not in here.
grep -v '^chimaera:' /etc/group >/run/program/group
mount --bind /run/program/group /etc/group
echo ready
exec cat
";

impl Sandbox {
    /// Makes a sandbox for a test that shows `what`, unless the system does not permit it: then this is
    /// said and there is none.
    ///
    /// # Panics
    /// If it cannot be made although it is permitted.
    #[must_use]
    pub fn new(what: &str) -> Option<Self> {
        if !is_root(what) {
            return None;
        }
        let permitted = finish_quietly(Command::new("unshare").args(["--mount", "true"]));
        if !permitted {
            skipped(what, "unshare --mount does not work here");
            return None;
        }
        let mut holder = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                SETUP,
                "sh",
            ])
            .arg(program("chimaera"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a sandbox");
        let mut said = String::new();
        let output = holder.stdout.take().expect("piped");
        let _ = BufReader::new(output).read_line(&mut said);
        let sandbox = Self { holder };
        assert_eq!(said, "ready\n", "the sandbox is made");
        Some(sandbox)
    }

    /// A command line that runs in the sandbox as this user, who has nothing in the environment but a
    /// search path.
    #[must_use]
    pub fn command(&self, user: u32, words: &[&str]) -> Command {
        let user = user.to_string();
        let mut command = Command::new("nsenter");
        command
            .args([
                "--target",
                &self.holder.id().to_string(),
                "--mount",
                "--wd=/",
            ])
            .args([
                "setpriv",
                "--reuid",
                &user,
                "--regid",
                &user,
                "--clear-groups",
            ])
            .args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"])
            .args(words);
        command
    }

    /// Runs a command line of a shell in the sandbox as this user.
    ///
    /// # Panics
    /// If it does not end.
    pub fn shell(&self, user: u32, line: &str) -> ProgramOutput {
        finish(self.command(user, &["sh", "-c", line]))
    }

    /// Runs the program in the sandbox as this user.
    ///
    /// # Panics
    /// If it does not end.
    pub fn chimaera(&self, user: u32, arguments: &[&str]) -> ProgramOutput {
        let mut words = vec![PROGRAM];
        words.extend(arguments);
        finish(self.command(user, &words))
    }

    /// A file of the sandbox as seen from outside.
    #[must_use]
    pub fn path(&self, inside: &str) -> std::path::PathBuf {
        let root = format!("/proc/{}/root", self.holder.id());
        Path::new(&root).join(inside.trim_start_matches('/'))
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Some(mut input) = self.holder.stdin.take() {
            let _ = input.flush();
        }
        let _ = self.holder.wait();
    }
}

/// A daemon in the background of a sandbox, killed on drop.
#[derive(Debug)]
pub struct SandboxDaemon(Pid);

impl SandboxDaemon {
    /// Starts the daemon of this user with further arguments.
    ///
    /// # Panics
    /// If it does not come to serve.
    #[must_use]
    pub fn start(sandbox: &Sandbox, user: u32, arguments: &[&str]) -> Self {
        let mut words = vec!["runtime", "start", "--detach"];
        words.extend(arguments);
        let said = sandbox.chimaera(user, &words).success();
        let id = said.trim_end().rsplit(' ').next().expect("a process id");
        Self(Pid::from_raw(id.parse().expect("a number")))
    }

    /// Its process id.
    #[must_use]
    pub fn process_id(&self) -> i32 {
        self.0.as_raw()
    }

    /// Whether this is the daemon that a client of this user's finds.
    ///
    /// # Panics
    /// If the client finds none.
    #[must_use]
    pub fn is_found_by(&self, sandbox: &Sandbox, user: u32, arguments: &[&str]) -> bool {
        let mut words = vec!["runtime", "status", "--json"];
        words.extend(arguments);
        let status = sandbox.chimaera(user, &words).success();
        json(&status)["process_id"] == self.0.as_raw()
    }
}

impl Drop for SandboxDaemon {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGKILL);
    }
}

fn finish_quietly(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}
