//! Users of a test's own: root's daemon has them as clients, and programs run as them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use chimaera_bdev_client::{Error, Runtime};
use chimaera_testing::{is_root, skipped};
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
use tempfile::TempDir;

use crate::build::program;
use crate::daemon::{Daemon, ProgramOutput, finish};
use crate::refusal::text;

/// A user, known by numbers alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct User {
    /// The user id.
    pub id: u32,
    /// The group id.
    pub group: u32,
    /// Supplementary groups.
    pub further: &'static [u32],
}

/// Whether this process can act as other users, for a test that shows `what`. If it cannot, that is said.
///
/// # Panics
/// If it cannot and the variable `CI` is set: there such tests have to run.
#[must_use]
pub fn has_users(what: &str) -> bool {
    if !is_root(what) {
        return false;
    }
    let has_others = thread::spawn(|| User::new(1).become_it()).join();
    if let Err(errno) = has_others.expect("it does not panic") {
        assert!(
            std::env::var_os("CI").is_none(),
            "{what}: nobody can act as another user here: {errno}"
        );
        skipped(
            what,
            &format!("nobody can act as another user here: {errno}"),
        );
        return false;
    }
    true
}

impl User {
    /// A user whose only group has the same number.
    #[must_use]
    pub const fn new(id: u32) -> Self {
        Self {
            id,
            group: id,
            further: &[],
        }
    }

    /// The same user with supplementary groups.
    #[must_use]
    pub const fn with_groups(self, further: &'static [u32]) -> Self {
        Self { further, ..self }
    }

    /// Connects to the daemon at this socket.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn connect(self, socket: &Path) -> Runtime {
        let connected = self.try_connect(socket);
        connected.unwrap_or_else(|error| panic!("{self:?}: {error}"))
    }

    /// Connects to the daemon at this socket. The connection is the user's, whoever uses it then.
    ///
    /// # Errors
    /// Those of [`Runtime::connect_to`].
    ///
    /// # Panics
    /// If this process may not act as the user.
    pub fn try_connect(self, socket: &Path) -> Result<Runtime, Error> {
        let socket = socket.to_owned();
        self.acting(move || Runtime::connect_to(socket))
    }

    /// Does something as the user: what the kernel asks of its doer then is the user's.
    ///
    /// # Panics
    /// If this process may not act as the user, or `act` panics.
    pub fn acting<T: Send + 'static>(self, act: impl FnOnce() -> T + Send + 'static) -> T {
        // The identity is that of a thread, which ends with it.
        let acting = thread::spawn(move || {
            self.become_it().expect("root may act as anybody");
            act()
        });
        acting.join().expect("it does not panic")
    }

    /// A command line that runs as this user, who has nothing in the environment but a search path.
    #[must_use]
    pub fn command(self, program: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new("setpriv");
        let (user, group) = (self.id.to_string(), self.group.to_string());
        command.args(["--reuid", &user, "--regid", &group]);
        match self.further {
            [] => command.arg("--clear-groups"),
            further => {
                let further: Vec<_> = further.iter().map(u32::to_string).collect();
                command.args(["--groups", &further.join(",")])
            }
        };
        command.args(["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin"]);
        command.arg(program).args(arguments).current_dir("/");
        command
    }

    /// Makes the calling thread, and it alone, the user's for good.
    fn become_it(self) -> rustix::io::Result<()> {
        let (user, group) = (Uid::from_raw(self.id), Gid::from_raw(self.group));
        let further: Vec<_> = self.further.iter().map(|&id| Gid::from_raw(id)).collect();
        set_thread_groups(&further)?;
        set_thread_res_gid(group, group, group)?;
        set_thread_res_uid(user, user, user)
    }
}

/// Root's daemon with two workers, a socket for operators and one for users, which is open to everybody. All lies in a
/// folder that everybody may read.
#[derive(Debug)]
pub struct UsersDaemon(pub Daemon);

impl UsersDaemon {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not come to serve.
    #[must_use]
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts it with further arguments.
    ///
    /// # Panics
    /// If it does not come to serve.
    #[must_use]
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_in(open_folder(), arguments)
    }

    /// Starts it with further arguments and one worker, which all clients share.
    ///
    /// # Panics
    /// If it does not come to serve.
    #[must_use]
    pub fn start_with_one_worker(arguments: &[&str]) -> Self {
        Self::start_with_workers(1, open_folder(), arguments)
    }

    /// Starts it in a folder, which may hold what another left behind.
    ///
    /// # Panics
    /// If it does not come to serve.
    #[must_use]
    pub fn start_in(folder: TempDir, arguments: &[&str]) -> Self {
        Self::start_with_workers(2, folder, arguments)
    }

    fn start_with_workers(workers: u32, folder: TempDir, arguments: &[&str]) -> Self {
        let users = format!("{},mode=0666", text(&socket_in(folder.path())));
        let workers = workers.to_string();
        let own = ["--workers", &workers, "--listen", &users];
        Self(Daemon::start_in(folder, &[&own[..], arguments].concat()))
    }

    /// Kills it with SIGKILL and starts another one in its place.
    ///
    /// # Panics
    /// If it does not come to serve.
    #[must_use]
    pub fn killed_and_started(self) -> Self {
        Self::start_in(self.0.kill_and_leave(), &[])
    }

    /// Has it stop, and starts another one in its place.
    ///
    /// # Panics
    /// If it does not stop, or the other one does not come to serve.
    #[must_use]
    pub fn stopped_and_started(mut self) -> Self {
        let operator = self.operator();
        operator.admin().stop_runtime().expect("an operator may");
        drop(operator);
        let (code, _) = self.0.wait();
        assert_eq!(code, Some(0), "it stops");
        Self::start_in(self.0.leave(), &[])
    }

    /// The users' socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        socket_in(self.0.folder())
    }

    /// Connects an operator: root, over the operators' socket.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn operator(&self) -> Runtime {
        self.0.connect()
    }

    /// Connects a user over the users' socket.
    ///
    /// # Panics
    /// If it is refused.
    #[must_use]
    pub fn user(&self, user: User) -> Runtime {
        user.connect(&self.socket())
    }

    /// Runs the program as a user, against the users' socket.
    ///
    /// # Panics
    /// If it does not end.
    pub fn run_as(&self, user: User, arguments: &[&str]) -> ProgramOutput {
        let socket = self.socket();
        let arguments = [arguments, &["--socket", text(&socket)]].concat();
        finish(user.command(&self.program(), &arguments))
    }

    /// Runs the program as a user, with no daemon in mind.
    ///
    /// # Panics
    /// If it does not end.
    pub fn run_offline_as(&self, user: User, arguments: &[&str]) -> ProgramOutput {
        finish(user.command(&self.program(), arguments))
    }

    /// The program, where everybody may start it.
    ///
    /// # Panics
    /// If there is no room for it.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        let copy = self.0.folder().join("chimaera");
        if !copy.exists() {
            fs::copy(program("chimaera"), &copy).expect("there is room");
            set_mode(&copy, 0o755);
        }
        copy
    }
}

fn socket_in(folder: &Path) -> PathBuf {
    folder.join("users.sock")
}

/// A folder that everybody may read and only this process's user may change.
fn open_folder() -> TempDir {
    let folder = TempDir::new().expect("a folder");
    set_mode(folder.path(), 0o755);
    folder
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its own");
}
