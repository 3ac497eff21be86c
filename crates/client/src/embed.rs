//! A runtime inside the calling process.

use std::io;
use std::path::PathBuf;

use chimaera_chimod::Module;
use chimaera_proto::Status;
use chimaera_proto::socket_path::{SOCKET_VARIABLE, SocketPlace};
use chimaera_runtime::{Config, Host, Polling};
use chimaera_shm::Shortage;

use crate::error::Error;
use crate::options::ConnectOptions;
use crate::runtime::Runtime;

/// How to run a host inside the calling process. It is the same host as a daemon's, reached
/// through the same code; it ends with the last handle to it, or when a client stops it
/// ([`AdminClient::stop_runtime`](crate::AdminClient::stop_runtime)), which is the end of all connections to it.
///
/// ```no_run
/// # fn main() -> Result<(), chimaera_client::Error> {
/// let runtime = chimaera_client::Runtime::embed().workers(1).start()?;
/// # Ok(())
/// # }
/// ```
#[derive(Default)]
#[must_use = "an embedded runtime runs once it is started"]
pub struct Embed {
    config: Config,
    options: ConnectOptions,
}

impl Embed {
    /// Uses a module that is linked into the program, so that no library has to be found for it. A library in a folder
    /// that was named, here or by `CHIMAERA_PLUGIN_PATH`, replaces it.
    pub fn with_module(mut self, module: Module) -> Self {
        self.config.modules.push(module);
        self
    }

    /// Looks for plugins in this folder before others.
    pub fn plugin_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.config.plugin_folders.push(folder.into());
        self
    }

    /// Opens this module to clients of other users, which then have pools made of it. Those that are linked in are open
    /// to them anyhow. Root, this process's user and this process have pools made of any module.
    pub fn open_module(mut self, name: impl Into<String>) -> Self {
        self.config.opened_modules.push(name.into());
        self
    }

    /// Number of workers; 0, the default, chooses by the number of processors.
    pub fn workers(mut self, count: usize) -> Self {
        self.config.worker_count = count;
        self
    }

    /// How long workers poll before they sleep.
    pub fn polling(mut self, polling: Polling) -> Self {
        self.config.polling = polling;
        self
    }

    /// Lets other processes connect to the embedded host at this path.
    pub fn listen(mut self, socket: impl Into<PathBuf>) -> Self {
        self.config.socket = Some(socket.into());
        self
    }

    /// How the calling process connects to the host, or to the daemon that [`Self::connect_or_start`] finds.
    pub fn connect_options(mut self, options: ConnectOptions) -> Self {
        self.options = options;
        self
    }

    /// Starts the host and connects to it. Blocks for a few milliseconds; for up to two seconds if another runtime at
    /// the same path was killed just now, is ending, or is about to serve. There is no twin that does not block.
    ///
    /// # Errors
    /// The host cannot start, for example because another one listens at its path; or as for a
    /// connection.
    pub fn start(self) -> Result<Runtime, Error> {
        let operation = "starting an embedded runtime";
        let host = Host::start(&self.config).map_err(|error| {
            let failure = error.system_error().map_or(Status::Aborted, status_of);
            Error::new(failure, operation).with_account(error)
        })?;
        let socket = host
            .connect()
            .map_err(|error| Error::io(&error, operation))?;
        self.options.keep_alive(Box::new(host)).from_socket(socket)
    }

    /// Connects to the user's daemon or the system's ([`ConnectOptions::connect`]), or starts the host if there is
    /// none. Blocks as both do.
    ///
    /// # Errors
    /// As [`ConnectOptions::connect`], save for an absent daemon, and as [`Self::start`]. [`Status::InvalidArgument`]
    /// if `CHIMAERA_SOCKET` names a path at which no daemon can listen: it is more likely a mistake than the wish for a
    /// runtime of one's own.
    pub fn connect_or_start(mut self) -> Result<Runtime, Error> {
        match self.options.connect_anywhere() {
            Err(error) if error.is_no_daemon() => {
                refuse_wrong_variable()?;
                self.start()
            }
            connected => connected,
        }
    }
}

fn refuse_wrong_variable() -> Result<(), Error> {
    let place = SocketPlace::own();
    place.check_named().map_err(|wrong| {
        let operation = format!("connecting to the runtime at {place}");
        Error::new(Status::InvalidArgument, operation).with_account(format_args!(
            "no daemon can listen there: {wrong}; or unset {SOCKET_VARIABLE}, and a runtime inside this process is \
             used where there is no daemon"
        ))
    })
}

/// The status of what the system lacks or refuses.
fn status_of(error: &io::Error) -> Status {
    match (Shortage::of(error), error.raw_os_error()) {
        (Some(shortage), _) => shortage.status(),
        (None, Some(errno)) => Status::from_errno(errno),
        (None, None) => Status::IoError,
    }
}

impl Runtime {
    /// Prepares a runtime inside the calling process.
    pub fn embed() -> Embed {
        Embed::default()
    }
}
