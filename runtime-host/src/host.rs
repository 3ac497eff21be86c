//! A running host, and its end.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use chimaera_chimod::ModuleError;
use chimaera_fork::{Private, ProcessIdentity};
use chimaera_proto::Status;
use chimaera_proto::admin::Restriction;
use chimaera_shm::{Doorbell, barrier, check_memory};
use chimaera_thread::{self as thread, JoinHandle, NoThread};
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

use crate::accounts::Accounts;
use crate::allowed_folders::AllowedFolders;
use crate::builtin::admin::Admin;
use crate::config::Config;
use crate::control::listener::Listener;
use crate::control::requests::SPARE_BYTES;
use crate::control::{Control, Entrance};
use crate::control_side::{ControlSide, ControlThreads};
use crate::ending::Ending;
use crate::error::HostError;
use crate::inbox::Inbox;
use crate::letting_go::Departure;
use crate::log;
use crate::messages::{ControlEvent, WorkerCommand};
use crate::modules::Modules;
use crate::pools::PoolRegistry;
use crate::processors::{check_processors, pin_to};
use crate::receiver::Receiver;
use crate::refused_pools::RefusedPools;
use crate::reply_gate::ReplyGate;
use crate::sessions::SessionRegistry;
use crate::stop::Stopper;
use crate::watchdog::{WatchdogThread, Watchlist};
use crate::worker::WorkerThread;
use crate::worker_inboxes::WorkerInboxes;

/// A running host. It ends when it is dropped, or by [`Host::end`]: pools are drained, flushed and
/// closed, sessions ended, the workers and the control thread joined. Threads for blocking jobs end by themselves
/// after their last one. What does not come to its end in time ([`Config::stop_timeout`]) is given up: its threads, and
/// whatever they use, stay in the process.
///
/// It belongs to the process that started it. A forked child has none of its threads, and whatever the child does with
/// the value does nothing.
pub struct Host {
    process: ProcessIdentity,
    shared: Arc<ControlSide>,
    departure: Arc<Departure>,
    control: Option<JoinHandle<()>>,
    workers: Vec<JoinHandle<()>>,
    /// Ends after the threads that it watches.
    watchdog: Option<WatchdogThread>,
    /// Dropped last, so that what the host logs as it ends is written.
    _log: log::LogHandle,
}

impl Host {
    /// Starts a host. When this returns, clients can connect.
    ///
    /// # Errors
    /// See [`HostError`]. Nothing keeps running then.
    pub fn start(config: &Config) -> Result<Self, HostError> {
        check_processors(&config.pin_to)?;
        // Before the first worker: later there may be no thread for it.
        let log = log::ensure_started().map_err(HostError::system("starting the log's thread"))?;
        let receiver = start_receiver(config)?;
        let allowed_paths = AllowedFolders::open(config)?;
        let entrances = entrances(config)?;
        let worker_count = config.effective_worker_count();
        let inboxes = (0..worker_count)
            .map(|_| Inbox::new().map(Arc::new))
            .collect::<io::Result<Vec<_>>>()
            .map_err(HostError::system("making the workers' inboxes"))?;
        let watchlist = Arc::new(Watchlist::default());
        let threads = ControlThreads::start(&watchlist).map_err(no_thread)?;
        let watchdog = WatchdogThread::start(&watchlist).map_err(no_thread)?;
        let inboxes = Arc::new(WorkerInboxes { by_worker: inboxes });
        let events = Inbox::new().map(Arc::new);
        let events = events.map_err(HostError::system("making the control inbox"))?;
        let shared = Arc::new(ControlSide {
            modules: Modules::new(config),
            allowed_paths,
            pools: PoolRegistry::new(config.operators.clone()),
            accounts: Accounts::new(config.limits),
            threads,
            session_count: AtomicU32::new(0),
            sessions: SessionRegistry::default(),
            stopper: Stopper::default(),
            watchlist,
            events: Arc::clone(&events),
            ending: Ending::within(config.stop_timeout),
            replies: ReplyGate::default(),
            started: Instant::now(),
            restrictions: OnceLock::new(),
            refused_pools: RefusedPools::default(),
            table: Arc::new(inboxes.table()),
            inboxes: Arc::clone(&inboxes),
            parks_with_barrier: barrier::is_available(),
        });
        let departure = departure_of(&shared, &entrances);
        let control = Control::new(
            Arc::clone(&shared),
            Arc::clone(&events),
            entrances,
            config.operators.clone(),
            receiver,
        )
        .map_err(HostError::system("making the control thread"))?;
        // From here on, dropping the host ends what was started.
        let mut host = Self {
            process: ProcessIdentity::current(),
            shared,
            departure,
            control: None,
            workers: Vec::new(),
            watchdog: Some(watchdog),
            _log: log,
        };
        for index in 0..worker_count {
            let worker = host.start_worker(index, &inboxes, config);
            host.workers
                .push(worker.map_err(HostError::system("starting a worker"))?);
        }
        check_room(config, worker_count)?;
        let thread = thread::spawn("chimaera-control", move || control.run());
        host.control = Some(thread.map_err(no_thread)?);
        Ok(host)
    }

    fn start_worker(
        &self,
        index: usize,
        inboxes: &Arc<WorkerInboxes>,
        config: &Config,
    ) -> io::Result<JoinHandle<()>> {
        let admin = Admin::new(Arc::clone(&self.shared));
        let events = Arc::clone(&self.shared.events);
        let polling = config.polling;
        let barrier = self.shared.parks_with_barrier;
        let worker = WorkerThread::new(index as u16, inboxes, events, admin, polling, barrier)?;
        let (inboxes, watchlist) = (Arc::clone(inboxes), Arc::clone(&self.shared.watchlist));
        let processor = match config.pin_to.len() {
            0 => None,
            count => Some(config.pin_to[index % count]),
        };
        let run = move || {
            if let Some(processor) = processor
                && let Err(error) = pin_to(processor)
            {
                log::warning(format_args!(
                    "worker {index} is not pinned to processor {processor}: {error}"
                ));
            }
            let _watching = watchlist.watch(true);
            worker.run(&inboxes);
        };
        Ok(thread::spawn(format!("chimaera-worker-{index}"), run)?)
    }

    /// Has the host tell operators what this process has given up. Only the first call counts.
    pub fn tell_restrictions(&self, restrictions: Vec<Restriction>) {
        let _ = self.shared.restrictions.set(restrictions);
    }

    /// Connects the calling process to its own host: gives the client's end of a connection.
    ///
    /// # Errors
    /// No file descriptors are left; the host was stopped; [`HostError::Forked`] as the cause.
    pub fn connect(&self) -> io::Result<OwnedFd> {
        if !self.process.is_current() {
            return Err(io::Error::other(HostError::Forked));
        }
        self.refuse_stopped()?;
        let mut theirs = None;
        let ours = Private::new(|| {
            let (ours, other) = socketpair(
                AddressFamily::Unix,
                SockType::SeqPacket,
                None,
                SockFlag::SOCK_CLOEXEC,
            )?;
            theirs = Some(other);
            Ok(ours)
        })?;
        let ours = ours.closed_apart();
        let theirs = theirs.expect("both were made");
        fcntl(&*ours, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
        self.shared
            .events
            .send(ControlEvent::Connect { socket: ours });
        // The host may have been stopped since, and nobody reads the event then.
        self.refuse_stopped()?;
        Ok(theirs)
    }

    fn refuse_stopped(&self) -> io::Result<()> {
        if self.shared.pools.is_closed() {
            let reason = "the runtime inside this process was stopped";
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason));
        }
        Ok(())
    }

    /// A handle that stops this host.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.shared.stopper.clone()
    }

    /// Blocks until the host is asked to stop: by a client's admin task, which has ended the pools and ends
    /// the sessions, or by a [`Stopper`], which has ended nothing. The host's threads still run then: end it. Returns
    /// at once in a forked child.
    pub fn wait(&self) {
        self.shared.stopper.wait();
    }

    /// Ends the host as dropping it does, and says whether what its pools hold is safe. Blocks until
    /// every task has completed and every pool was flushed and closed, but no longer than [`Config::stop_timeout`] and
    /// a moment.
    ///
    /// # Errors
    /// [`HostError::Unflushed`]: the host has ended all the same. [`HostError::Unfinished`]: some of it hangs. Its
    /// sockets are given up, and clients have seen the end, save those into whose memory an operation may still write:
    /// they see it when this process ends. What stays in the process are the threads that hang, the pools that the
    /// error names with their files and locks, the memory of those clients, and a few threads that have nothing to do
    /// any more; another host can be started beside that. [`HostError::Forked`] in a forked child, where nothing is
    /// done.
    pub fn end(mut self) -> Result<(), HostError> {
        self.shut_down()
    }

    fn shut_down(&mut self) -> Result<(), HostError> {
        if !self.process.is_current() {
            // The threads are the parent's: not even their handles can be dropped here.
            std::mem::forget((self.control.take(), std::mem::take(&mut self.workers)));
            if let Some(watchdog) = self.watchdog.take() {
                watchdog.forget();
            }
            return Err(HostError::Forked);
        }
        let Some(control) = self.control.take() else {
            // It did not come to serve.
            for inbox in &self.shared.inboxes.by_worker {
                inbox.send(WorkerCommand::Stop);
            }
            self.workers.drain(..).for_each(join);
            return Ok(());
        };
        // Workers are still there to drain the pools.
        let flushed = self.shared.end_all_pools();
        let has_given_up = self.shared.ending.gave_up();
        let patience = match has_given_up {
            // What sessions wait for does not come; the others end at once.
            true => MOMENT,
            false => MOMENT.max(self.shared.ending.begin() - Instant::now()),
        };
        self.shared.events.send(ControlEvent::Stop);
        if !joins_within(control, patience) {
            self.departure.let_go();
            self.workers.clear();
            return Err(HostError::Unfinished(flushed.err().unwrap_or_else(|| {
                ModuleError::new(
                    Status::IoError,
                    "its pools were flushed and closed, and not all tasks of its sessions are done",
                )
            })));
        }
        for inbox in &self.shared.inboxes.by_worker {
            inbox.send(WorkerCommand::Stop);
        }
        for worker in self.workers.drain(..) {
            joins_within(worker, MOMENT);
        }
        drop(self.watchdog.take());
        match has_given_up {
            true => flushed.map_err(HostError::Unfinished),
            false => flushed.map_err(HostError::Unflushed),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // Errors are in the log.
        let _ = self.shut_down();
    }
}

/// What lets go of what others wait for, also when the host's stopper is told to.
fn departure_of(shared: &Arc<ControlSide>, entrances: &[Entrance]) -> Arc<Departure> {
    let listeners = entrances.iter().map(|one| Arc::clone(&one.listener));
    let departure = Arc::new(Departure::new(shared, listeners.collect()));
    let cut_short = Arc::clone(&departure);
    shared.stopper.cuts_short_by(move || cut_short.cut_short());
    departure
}

/// Starts the process that receives files of clients, where strangers may connect. It comes before sockets and locks,
/// of which it would have copies for a moment.
fn start_receiver(config: &Config) -> Result<Option<Receiver>, HostError> {
    if config.socket.is_none() && config.listen.is_empty() {
        return Ok(None);
    }
    Receiver::start(&config.allow_file_systems)
        .map(Some)
        .map_err(HostError::system(
            "starting the process that receives files of clients",
        ))
}

/// Binds the sockets that a host listens on.
fn entrances(config: &Config) -> Result<Vec<Entrance>, HostError> {
    let mut entrances = Vec::new();
    let warns = config.warns_of_open_paths();
    if let Some(path) = &config.socket {
        // Whoever else may connect is told by the kernel, and refused unless it is one of the operators.
        let mode = if config.operators.is_empty() {
            0o600
        } else {
            0o666
        };
        entrances.push(Entrance {
            listener: Arc::new(Listener::bind(path, (mode, None), warns)?),
            max: None,
        });
    }
    for users in &config.listen {
        entrances.push(Entrance {
            listener: Arc::new(Listener::bind(
                &users.path,
                (users.mode, users.group),
                warns,
            )?),
            max: Some(users.max),
        });
    }
    Ok(entrances)
}

/// Descriptors that a client takes: its connection, its memory, its lane's doorbell, and one that it sends.
const CLIENT_DESCRIPTORS: usize = 4;

/// Descriptors of a pool on a file, besides two for each worker (one for I/O and one that wakes the worker): the file
/// that a client has passed, until the pool is made, and the module's own.
const POOL_DESCRIPTORS: usize = 2;

/// Checks that there is room for a first client.
fn check_room(config: &Config, worker_count: usize) -> Result<(), HostError> {
    let room = check_memory(SPARE_BYTES_AT_START);
    room.map_err(HostError::system("keeping memory for clients' requests"))?;
    if config.socket.is_none() && config.listen.is_empty() {
        return Ok(());
    }
    let free = check_descriptors(worker_count);
    free.map_err(HostError::system(
        "keeping descriptors for a first client and its pool",
    ))
}

/// Checks that there are descriptors left for a client with a pool on a file: without them a daemon would say that it
/// serves, and serve nobody.
fn check_descriptors(worker_count: usize) -> io::Result<()> {
    let needed = CLIENT_DESCRIPTORS + POOL_DESCRIPTORS + 2 * worker_count;
    let kept: io::Result<Vec<_>> = (0..needed).map(|_| Doorbell::new()).collect();
    kept.map(drop)
}

/// Memory that has to be left before the control thread starts: 2 MiB for its stack, as much for its allocator's
/// beginning, and [`SPARE_BYTES`], with 1 MiB to spare.
const SPARE_BYTES_AT_START: usize = SPARE_BYTES + (5 << 20);

/// How long what has nothing to wait for may take.
const MOMENT: Duration = Duration::from_millis(500);

fn join(thread: JoinHandle<()>) {
    let name = thread.name().to_owned();
    report_panic(&name, thread.join());
}

/// Joins a thread, if it ends within this time. A thread that does not is left to itself.
fn joins_within(thread: JoinHandle<()>, patience: Duration) -> bool {
    let name = thread.name().to_owned();
    match thread.join_within(patience) {
        Ok(result) => {
            report_panic(&name, result);
            true
        }
        Err(_hangs) => {
            log::error(format_args!("{name} has not come to its end, and is left"));
            false
        }
    }
}

fn report_panic(name: &str, result: std::thread::Result<()>) {
    if result.is_err() {
        log::error(format_args!(
            "{name} panicked: this is a mistake in the runtime"
        ));
    }
}

fn no_thread(refused: NoThread) -> HostError {
    HostError::system("starting its threads")(refused.into())
}
