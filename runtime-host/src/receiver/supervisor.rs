//! The receiver's own process: it forks children, kills those that hang, and says which have ended.
//!
//! Laws of this module:
//! - It has no file of anybody's in its table, not even a client's socket: only children take requests. So nothing that
//!   it closes or looks at can hang, and it waits for nothing but events.
//! - One child at a time waits for a request. The next one is forked as soon as that one has taken its own.
//! - It was forked from a process that may have had threads. So it takes no memory and no lock, here and in the
//!   children: it calls nothing but the kernel.

use std::os::fd::RawFd;
use std::time::{Duration, Instant};

use nix::errno::Errno;

use super::child::{self, Place, exit};
use super::messages::{ChildTask, Note, RequestTaken, word};

/// How long a child may live that has taken a request to receive. Then it is killed.
pub(crate) const CHILD_PATIENCE: Duration = Duration::from_secs(2);

/// The most children at a time.
const MAX_CHILDREN: usize = 512;

/// How long to wait before asking the system again for what it refused.
const RETRY: Duration = Duration::from_millis(100);

/// What the receiver's process has from the host.
pub(super) struct Ends {
    /// Where children find requests, and answer them.
    pub(super) requests: RawFd,
    /// Where the host is told of children that have ended, and tells which is to be killed. It ends with the host.
    pub(super) notes: RawFd,
    /// The host's process, if that ends with the thread which has forked the receiver.
    pub(super) parent: Option<libc::pid_t>,
}

/// Runs the receiver until the host ends. Never returns.
pub(super) fn run(ends: &Ends, trusted: &[String]) -> ! {
    leave_the_host(ends);
    if let Some(supervisor) = Supervisor::new(ends) {
        supervisor.serve(trusted);
    }
    exit()
}

/// Gives up what the receiver has of the host and does not need. What cannot be given up harms nobody.
fn leave_the_host(ends: &Ends) {
    // SAFETY: these calls change nothing but this process; texts end in zeros and sets are initialized.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        // Else children would be gone before they are waited for.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::prctl(libc::PR_SET_NAME, c"chimaera-recv".as_ptr());
        if let Some(parent) = ends.parent {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            if libc::getppid() != parent {
                exit();
            }
        }
        libc::setsid();
        libc::chdir(c"/".as_ptr());
    }
    let [low, high] = match ends.requests < ends.notes {
        true => [ends.requests, ends.notes],
        false => [ends.notes, ends.requests],
    };
    close_between(0, low);
    close_between(low + 1, high);
    close_between(high + 1, RawFd::MAX);
    // SAFETY: as above.
    unsafe {
        let mut limit: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) == 0 {
            limit.rlim_cur = limit.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit);
        }
        // No core dump, and nobody looks in who is not root.
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
    }
}

/// Closes the descriptors from `first` to before `end`.
fn close_between(first: RawFd, end: RawFd) {
    if first >= end {
        return;
    }
    // SAFETY: what is closed here belongs to this process's copy of the host, which nobody uses any more.
    unsafe {
        if libc::syscall(libc::SYS_close_range, first, end - 1, 0) == 0 {
            return;
        }
        // Before Linux 5.9.
        let mut limit: libc::rlimit = std::mem::zeroed();
        libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit);
        let last = RawFd::try_from(limit.rlim_cur).unwrap_or(RawFd::MAX);
        for number in first..end.min(last).min(1 << 20) {
            libc::close(number);
        }
    }
}

/// A child that was forked and not waited for yet.
#[derive(Clone, Copy)]
struct Child {
    process: libc::pid_t,
    generation: u64,
    /// The number of the request that it has taken.
    request: Option<u64>,
    /// When it is to be killed. `None` if it was, or need not be.
    deadline: Option<Instant>,
    has_ended: bool,
}

struct Supervisor {
    /// This process.
    process: libc::pid_t,
    requests: RawFd,
    notes: RawFd,
    signals: RawFd,
    /// A pipe on which children say that they have taken a request.
    taken: [RawFd; 2],
    children: [Option<Child>; MAX_CHILDREN],
    /// Requests whose children are to be killed as soon as they have taken them.
    to_end: [Option<u64>; MAX_CHILDREN],
    generation: u64,
    /// When to ask again for a process that the system refused.
    lacks_process_until: Option<Instant>,
    is_lack_told: bool,
}

impl Supervisor {
    fn new(ends: &Ends) -> Option<Self> {
        let mut taken = [-1; 2];
        // SAFETY: the place has room for two numbers, and the set is initialized.
        let signals = unsafe {
            if libc::pipe2(taken.as_mut_ptr(), libc::O_CLOEXEC | libc::O_NONBLOCK) != 0 {
                return None;
            }
            let mut ended: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut ended);
            libc::sigaddset(&raw mut ended, libc::SIGCHLD);
            libc::signalfd(-1, &raw const ended, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK)
        };
        (signals >= 0).then_some(Self {
            // SAFETY: the call takes nothing.
            process: unsafe { libc::getpid() },
            requests: ends.requests,
            notes: ends.notes,
            signals,
            taken,
            children: [None; MAX_CHILDREN],
            to_end: [None; MAX_CHILDREN],
            generation: 0,
            lacks_process_until: None,
            is_lack_told: false,
        })
    }

    fn serve(mut self, trusted: &[String]) {
        loop {
            self.keep_one_waiting(trusted);
            if !self.wait() {
                return;
            }
            drain(self.signals);
            self.note_taken();
            self.reap();
            self.tell_of_ended();
            self.kill_overdue();
        }
    }

    /// Forks the child that waits for the next request, unless there is one.
    fn keep_one_waiting(&mut self, trusted: &[String]) {
        let is_waiting = |child: &&Child| child.request.is_none() && !child.has_ended;
        if self
            .children
            .iter()
            .flatten()
            .any(|child| is_waiting(&child))
        {
            return;
        }
        let now = Instant::now();
        if self.lacks_process_until.is_some_and(|until| now < until) {
            return;
        }
        let Some(free) = self.children.iter().position(Option::is_none) else {
            return;
        };
        self.generation += 1;
        match fork(libc::SIGCHLD) {
            Ok(0) => self.be_child(trusted),
            Ok(process) => {
                (self.lacks_process_until, self.is_lack_told) = (None, false);
                self.children[free] = Some(Child {
                    process,
                    generation: self.generation,
                    request: None,
                    deadline: None,
                    has_ended: false,
                });
            }
            Err(_) => {
                let is_repeated = self.lacks_process_until.replace(now + RETRY).is_some();
                // The end of a child is often enough to have another one.
                if is_repeated && !std::mem::replace(&mut self.is_lack_told, true) {
                    self.tell(Note::NoProcess);
                }
            }
        }
    }

    /// What a new child does. It has none of the receiver's files but those that it needs.
    fn be_child(&self, trusted: &[String]) -> ! {
        // SAFETY: these calls change nothing but this process.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            // The receiver may have ended before that.
            if libc::getppid() != self.process {
                exit();
            }
            for file in [self.notes, self.signals, self.taken[0]] {
                libc::close(file);
            }
        }
        let place = Place {
            requests: self.requests,
            taken: self.taken[1],
            generation: self.generation,
        };
        child::serve(&place, trusted)
    }

    /// Waits for an event. Returns false once the host has ended.
    fn wait(&mut self) -> bool {
        let event = |fd| libc::pollfd {
            fd,
            events: libc::POLLIN,
            revents: 0,
        };
        let mut files = [event(self.notes), event(self.signals), event(self.taken[0])];
        let deadlines = self
            .children
            .iter()
            .flatten()
            .filter_map(|child| child.deadline);
        let next = deadlines.chain(self.lacks_process_until).min();
        let untold = self.children.iter().flatten().any(|child| child.has_ended);
        let retry = untold.then_some(RETRY);
        let next = next.map(|next| next.saturating_duration_since(Instant::now()));
        let milliseconds = match next.into_iter().chain(retry).min() {
            Some(wait) => wait.as_micros().div_ceil(1000) as i32,
            None => -1,
        };
        // SAFETY: the place has three entries.
        unsafe { libc::poll(files.as_mut_ptr(), 3, milliseconds) };
        files[0].revents == 0 || self.kill_as_told()
    }

    /// Kills the children that the host names. Returns false once the host has ended.
    fn kill_as_told(&mut self) -> bool {
        loop {
            let mut bytes = [0_u8; 8];
            // SAFETY: the place has so many bytes.
            let len = unsafe {
                let start = bytes.as_mut_ptr().cast();
                libc::recv(self.notes, start, bytes.len(), libc::MSG_DONTWAIT)
            };
            match len {
                0 => return false,
                1.. => {
                    if let Some(request) = word(&bytes, 0) {
                        self.end_child(request);
                    }
                }
                _ => return matches!(Errno::last(), Errno::EAGAIN | Errno::EINTR),
            }
        }
    }

    /// Kills the child that has taken a request, or notes that it is to be killed once it has.
    fn end_child(&mut self, request: u64) {
        let mut children = self.children.iter().flatten();
        if let Some(child) = children.find(|child| child.request == Some(request)) {
            child.kill();
        } else if let Some(free) = self.to_end.iter_mut().find(|place| place.is_none()) {
            *free = Some(request);
        }
    }

    /// Notes which children have taken requests.
    fn note_taken(&mut self) {
        let mut bytes = [0_u8; RequestTaken::BYTES];
        // SAFETY: the place has so many bytes.
        while unsafe { libc::read(self.taken[0], bytes.as_mut_ptr().cast(), bytes.len()) } > 0 {
            let Some(taken) = RequestTaken::from_bytes(&bytes) else {
                return;
            };
            let mut children = self.children.iter_mut().flatten();
            if let Some(child) = children.find(|child| child.generation == taken.generation) {
                child.request = Some(taken.request.number);
                // The host says when one that holds a socket is to end.
                let is_hurried = taken.request.task == ChildTask::Receive && !child.has_ended;
                child.deadline = is_hurried.then(|| Instant::now() + CHILD_PATIENCE);
                let mut to_end = self.to_end.iter_mut();
                if let Some(place) = to_end.find(|place| **place == child.request) {
                    *place = None;
                    child.kill();
                }
            }
        }
    }

    /// Takes note of children that have ended.
    fn reap(&mut self) {
        loop {
            // SAFETY: the call may leave out where to put the status.
            let process = unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) };
            if process <= 0 {
                break;
            }
            let mut children = self.children.iter_mut().flatten();
            if let Some(child) = children.find(|child| child.process == process) {
                child.has_ended = true;
                child.deadline = None;
            }
            // There is room for another one now.
            let retry_at = self.lacks_process_until.as_mut();
            retry_at
                .into_iter()
                .for_each(|until| *until = Instant::now());
        }
        // One that has ended since the last look may have said something before.
        self.note_taken();
    }

    /// Tells the host of children that have ended, and forgets them.
    fn tell_of_ended(&mut self) {
        for index in 0..MAX_CHILDREN {
            let Some(child) = self.children[index].filter(|child| child.has_ended) else {
                continue;
            };
            let is_told = child
                .request
                .is_none_or(|request| self.tell(Note::Ended { request }));
            if is_told {
                self.children[index] = None;
            }
        }
    }

    /// Tells the host something. Returns false if it does not listen for the moment.
    fn tell(&self, note: Note) -> bool {
        let bytes = note.to_bytes();
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the place has so many bytes.
        let sent = unsafe { libc::send(self.notes, bytes.as_ptr().cast(), bytes.len(), flags) };
        sent >= 0 || Errno::last() != Errno::EAGAIN
    }

    fn kill_overdue(&mut self) {
        let now = Instant::now();
        for child in self.children.iter_mut().flatten() {
            if child.deadline.is_some_and(|deadline| deadline <= now) {
                child.deadline = None;
                child.kill();
            }
        }
    }
}

impl Child {
    fn kill(&self) {
        if !self.has_ended {
            // SAFETY: the number is this child's, as it was not waited for yet.
            unsafe { libc::kill(self.process, libc::SIGKILL) };
        }
    }
}

/// Reads a file until there is nothing left for the moment.
fn drain(file: RawFd) {
    let mut bytes = [0_u8; 1024];
    // SAFETY: the place has so many bytes.
    while unsafe { libc::read(file, bytes.as_mut_ptr().cast(), bytes.len()) } > 0 {}
}

/// Forks without what the C library and applications have arranged for a fork. The child's end is told to its parent by
/// this signal; 0 for none.
pub(super) fn fork(signal: libc::c_int) -> nix::Result<libc::pid_t> {
    // SAFETY: the child gets a copy of this thread's stack, and calls nothing but the kernel.
    let process = unsafe { libc::syscall(libc::SYS_clone, libc::c_long::from(signal), 0, 0, 0, 0) };
    Errno::result(process).map(|process| process as libc::pid_t)
}
