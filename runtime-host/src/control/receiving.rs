//! Messages that come with files, and connections that still hold some: they go to the receiver, and this says whose
//! turn it is. The receiver's answers are taken here.
//!
//! Each user has so many children of the receiver's at a time. Further messages wait, unreceived, until one has ended.
//! A child that has not ended in time counts as hanging until it does end; if all of a user's hang, further messages of
//! that user's with files are refused.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use chimaera_fork::Private;
use nix::errno::Errno;

use crate::accounts::Charge;
use crate::receiver::{CHILD_PATIENCE, ChildTask, Note, ReceivedFile, Receiver};

/// The most children that receive messages of one user's at a time.
pub(super) const MAX_RECEIVING: usize = 8;

/// The most children that close connections of one user's at a time.
const MAX_CLOSING: usize = 8;

/// The most connections that have ended and wait to be closed while users' sockets take further ones.
const MAX_UNCLOSED: usize = 256;

/// How long a request may take until the host does not wait for an answer any more. The receiver kills a hanging child
/// before that.
pub(super) const ANSWER_PATIENCE: Duration = Duration::from_secs(4);

const _: () = assert!(ANSWER_PATIENCE.as_millis() > CHILD_PATIENCE.as_millis());

/// How often to try again what the receiver did not take.
const RETRY: Duration = Duration::from_millis(100);

/// How long to try where too many files are on their way.
const REFUSAL_PATIENCE: Duration = Duration::from_secs(2);

pub(super) type Socket = Arc<Private<OwnedFd>>;

/// A connection that has ended and is to be closed.
pub(super) struct Ended {
    pub(super) user: u32,
    pub(super) socket: Socket,
    /// Whether this process made it, and what it sent is its own.
    pub(super) is_own: bool,
    /// Whether its client was sent files: doorbells.
    pub(super) sent_files: bool,
    /// What it takes of what all share, until it is closed.
    pub(super) _charges: Vec<Charge>,
}

/// What is asked of the receiver, and what waits for that.
pub(super) struct Receiving {
    /// `None` where no socket listens, and once the receiver has ended.
    receiver: Option<Receiver>,
    /// Requests whose children have not ended, by number.
    requests: BTreeMap<u64, Pending>,
    /// When each request is to have been answered, in order. Most have been before.
    deadlines: VecDeque<(Instant, u64)>,
    users: BTreeMap<u32, UserChildren>,
    /// Connections whose turn it is, and their users: the receiver is still to be asked.
    ready: VecDeque<(u64, u32)>,
    /// Connections that have ended and hold files, until the receiver takes them, by user.
    unclosed: BTreeMap<u32, VecDeque<Ended>>,
    unclosed_count: usize,
    /// Requests to close of which the receiver is still to be told that it may.
    untold: Vec<u64>,
    /// Since when too many files are on their way.
    refused_since: Option<Instant>,
    next: u64,
}

struct Pending {
    user: u32,
    work: Work,
    is_overdue: bool,
}

impl Pending {
    const fn new(user: u32, work: Work) -> Self {
        Self {
            user,
            work,
            is_overdue: false,
        }
    }
}

enum Work {
    /// For this connection, or for nobody any more.
    Receive(Option<u64>),
    /// For a connection that is closed here already.
    Close,
}

/// How many children there are for a user.
#[derive(Default)]
struct UserChildren {
    receiving: usize,
    /// How many of these have not ended in time.
    overdue: usize,
    closing: usize,
    /// Connections whose messages wait for a child to end.
    waiting: VecDeque<u64>,
}

impl UserChildren {
    fn is_nothing(&self) -> bool {
        self.receiving == 0 && self.closing == 0 && self.waiting.is_empty()
    }
}

/// Why a message with files cannot be received.
#[derive(Debug)]
pub(super) enum Hindrance {
    /// There is no receiver any more.
    Gone,
    /// As many children as the user may have hang.
    AllHang,
    /// The child has not answered in time, or was killed.
    NoAnswer,
    /// What the system refuses.
    System(io::Error),
}

impl Receiving {
    pub(super) fn new(receiver: Option<Receiver>) -> Self {
        Self {
            receiver,
            requests: BTreeMap::new(),
            deadlines: VecDeque::new(),
            users: BTreeMap::new(),
            ready: VecDeque::new(),
            unclosed: BTreeMap::new(),
            unclosed_count: 0,
            untold: Vec::new(),
            refused_since: None,
            next: 1,
        }
    }

    pub(super) fn receiver(&self) -> Option<&Receiver> {
        self.receiver.as_ref()
    }

    /// Has the next message of a connection received when its user's turn comes.
    pub(super) fn begin(
        &mut self,
        connection: u64,
        user: u32,
        socket: &Socket,
    ) -> Result<(), Hindrance> {
        if self.receiver.is_none() {
            return Err(Hindrance::Gone);
        }
        let children = self.users.entry(user).or_default();
        if children.overdue >= MAX_RECEIVING {
            return Err(Hindrance::AllHang);
        }
        if children.receiving >= MAX_RECEIVING {
            children.waiting.push_back(connection);
            return Ok(());
        }
        self.ask(connection, user, socket)
    }

    /// Whether the receiver may take a request soon that it has not taken: it has others to read; or processes of this
    /// user have more files on their way than this process may have open, for a moment.
    fn may_pass(&mut self, error: &io::Error) -> bool {
        match error.raw_os_error().map(Errno::from_raw) {
            Some(Errno::EAGAIN) => true,
            Some(Errno::ETOOMANYREFS) => {
                let since = *self.refused_since.get_or_insert_with(Instant::now);
                since.elapsed() < REFUSAL_PATIENCE
            }
            _ => false,
        }
    }

    fn ask(&mut self, connection: u64, user: u32, socket: &Socket) -> Result<(), Hindrance> {
        let Some(receiver) = &self.receiver else {
            return Err(Hindrance::Gone);
        };
        let number = self.next;
        match receiver.ask(number, ChildTask::Receive, socket) {
            Ok(()) => self.refused_since = None,
            Err(error) if self.may_pass(&error) => {
                self.ready.push_back((connection, user));
                return Ok(());
            }
            Err(error) => return Err(Hindrance::System(error)),
        }
        let pending = Pending::new(user, Work::Receive(Some(connection)));
        self.requests.insert(number, pending);
        self.next += 1;
        self.deadlines
            .push_back((Instant::now() + ANSWER_PATIENCE, number));
        self.users.entry(user).or_default().receiving += 1;
        Ok(())
    }

    /// Has a connection that has ended and was shut down closed by a process of its own.
    pub(super) fn close(&mut self, ended: Ended) {
        let of_user = self.unclosed.entry(ended.user).or_default();
        of_user.push_back(ended);
        self.unclosed_count += 1;
        self.close_more();
        self.tell();
    }

    /// Hands connections to the receiver that are to be closed, as far as it takes them. The others stay here.
    fn close_more(&mut self) {
        let Some(receiver) = &self.receiver else {
            return;
        };
        for (&user, of_user) in &mut self.unclosed {
            while let Some(ended) = of_user.front() {
                let closing = self.users.get(&user).map_or(0, |user| user.closing);
                let request = self.next;
                if closing >= MAX_CLOSING
                    || receiver
                        .ask(request, ChildTask::Close, &ended.socket)
                        .is_err()
                {
                    break;
                }
                self.users.entry(user).or_default().closing += 1;
                let pending = Pending::new(user, Work::Close);
                self.requests.insert(request, pending);
                self.next += 1;
                // The copy on its way to the child is the last one when the child is told to end.
                of_user.pop_front();
                self.unclosed_count -= 1;
                self.untold.push(request);
            }
        }
        self.unclosed.retain(|_, of_user| !of_user.is_empty());
    }

    /// Whether so many connections that have ended wait to be closed that users' sockets take no further ones: whoever
    /// goes on connecting with files that hang must not use up the host's descriptors.
    pub(super) fn holds_too_many(&self) -> bool {
        self.unclosed_count >= MAX_UNCLOSED
    }

    /// Takes an answer. Gives the connection that it is for, if that is still there.
    pub(super) fn take_answer(&mut self, request: u64) -> Option<u64> {
        match &mut self.requests.get_mut(&request)?.work {
            Work::Receive(connection) => connection.take(),
            Work::Close => None,
        }
    }

    /// Tells the receiver which children may end, as far as it listens.
    fn tell(&mut self) {
        let Some(receiver) = &self.receiver else {
            return;
        };
        let untold = std::mem::take(&mut self.untold);
        self.untold = untold
            .into_iter()
            .filter(|&request| receiver.end_child(request).is_err())
            .collect();
    }

    /// Notes that a request's child has ended. Gives the connection that has got no answer by that.
    pub(super) fn note_end(&mut self, request: u64) -> Option<u64> {
        let pending = self.requests.remove(&request)?;
        self.untold.retain(|&other| other != request);
        let children = self.users.get_mut(&pending.user)?;
        match pending.work {
            Work::Receive(connection) => {
                children.receiving -= 1;
                children.overdue -= usize::from(pending.is_overdue);
                self.pass_turn(pending.user);
                connection
            }
            Work::Close => {
                children.closing -= 1;
                self.forget_idle(pending.user);
                None
            }
        }
    }

    fn forget_idle(&mut self, user: u32) {
        if self.users.get(&user).is_some_and(UserChildren::is_nothing) {
            self.users.remove(&user);
        }
    }

    /// Connections that are not to wait for an answer any more, and why.
    pub(super) fn take_overdue(&mut self) -> Vec<(u64, Hindrance)> {
        let mut given_up = Vec::new();
        let now = Instant::now();
        while self
            .deadlines
            .front()
            .is_some_and(|&(until, _)| until <= now)
        {
            let Some((_, request)) = self.deadlines.pop_front() else {
                break;
            };
            let Some(pending) = self.requests.get_mut(&request) else {
                continue;
            };
            pending.is_overdue = true;
            if let Work::Receive(connection) = &mut pending.work {
                given_up.extend(connection.take().map(|id| (id, Hindrance::NoAnswer)));
            }
            let Some(children) = self.users.get_mut(&pending.user) else {
                continue;
            };
            children.overdue += 1;
            if children.overdue >= MAX_RECEIVING {
                let waiting = children.waiting.drain(..);
                given_up.extend(waiting.map(|id| (id, Hindrance::AllHang)));
            }
        }
        given_up
    }

    /// Gives the turn of a user's connection that does not use it to the user's next one.
    pub(super) fn pass_turn(&mut self, user: u32) {
        let Some(children) = self.users.get_mut(&user) else {
            return;
        };
        if children.receiving < MAX_RECEIVING {
            let next = children.waiting.pop_front();
            self.ready.extend(next.map(|next| (next, user)));
        }
        self.forget_idle(user);
    }

    /// Tries again what the receiver did not take.
    pub(super) fn retry(&mut self) {
        self.close_more();
        self.tell();
    }

    /// The connections whose turn it is, and their users. Some may have ended.
    pub(super) fn take_ready(&mut self) -> VecDeque<(u64, u32)> {
        std::mem::take(&mut self.ready)
    }

    /// Drops the receiver, which has ended. Gives the connections that waited for it.
    pub(super) fn lose_receiver(&mut self) -> Vec<u64> {
        self.receiver = None;
        self.deadlines.clear();
        self.untold.clear();
        let mut waiting: Vec<_> = self.ready.drain(..).map(|(id, _)| id).collect();
        for children in std::mem::take(&mut self.users).into_values() {
            waiting.extend(children.waiting);
        }
        for pending in std::mem::take(&mut self.requests).into_values() {
            match pending.work {
                Work::Receive(connection) => waiting.extend(connection),
                Work::Close => {}
            }
        }
        waiting
    }

    /// How long until something is to be done here.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        let has_receiver = self.receiver.is_some();
        let is_waiting =
            !self.ready.is_empty() || !self.untold.is_empty() || !self.unclosed.is_empty();
        let retry = (has_receiver && is_waiting).then_some(RETRY);
        let deadline = self.deadlines.front();
        let deadline = deadline.map(|(until, _)| until.saturating_duration_since(now));
        retry.into_iter().chain(deadline).min()
    }
}

impl Drop for Receiving {
    fn drop(&mut self) {
        // Whoever closes these last may hang. The process's end does not.
        std::mem::forget(std::mem::take(&mut self.unclosed));
    }
}

/// What the receiver has said.
pub(super) fn hear(receiver: &Receiver) -> (Vec<ReceivedFile>, Vec<Note>, bool) {
    let mut notes = Vec::new();
    let is_gone = loop {
        match receiver.note() {
            Ok(note) => notes.push(note),
            Err(error) => break error.kind() != io::ErrorKind::WouldBlock,
        }
    };
    // After the notes: a child's answer comes before its end is told.
    let answers = std::iter::from_fn(|| receiver.answer()).collect();
    (answers, notes, is_gone)
}
