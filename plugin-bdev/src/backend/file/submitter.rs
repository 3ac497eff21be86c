//! A pool's thread that hands AIO operations to the kernel which may keep whoever does that ([`super::blocking`]).
//!
//! Laws:
//! - A worker never waits here: it puts the operation into a queue that has room for all that are in flight, and wakes
//!   the thread.
//! - Results come from the context's ring as all others do. Only what the kernel refuses comes back from here.
//! - An engine is not dropped before the thread has let go of the last of its operations.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread::Thread;
use std::time::{Duration, Instant};

use chimaera_thread::condition::{Condvar, Mutex};
use chimaera_thread::{self as thread, JoinHandle, NoThread};
use crossbeam::queue::{ArrayQueue, SegQueue};
use nix::sys::eventfd::EventFd;

use super::queue::REFUSAL_PATIENCE;

/// Operations that are handed to the kernel in one call.
const BATCH: usize = 64;

/// The pause before the kernel is offered again what it could not take.
const PAUSE: Duration = Duration::from_millis(1);

/// The thread, which ends when this is dropped.
pub(super) struct SubmittingThread {
    shared: Arc<Shared>,
    /// For waking it, which takes no lock.
    waiter: Thread,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    queue: ArrayQueue<HandedOver>,
    ended: AtomicBool,
}

/// An operation.
struct HandedOver {
    desk: Arc<Desk>,
    /// Index of its control block.
    index: u32,
    /// Address of its control block.
    address: usize,
}

/// What an engine shares with the thread.
pub(super) struct Desk {
    context: libc::c_ulong,
    /// The engine's worker.
    wake: Arc<EventFd>,
    /// Operations that the thread has, in its queue or in its hands.
    count: AtomicUsize,
    /// Those that the kernel refuses, by the indexes of their control blocks, with its errors.
    refused: SegQueue<(u32, i32)>,
    has_refused: AtomicBool,
    /// The engine is being dropped: nothing is to be started any more.
    closing: AtomicBool,
    lock: Mutex<()>,
    emptied: Condvar,
}

impl SubmittingThread {
    /// Starts the thread, for so many operations at the same time. It calls `begin` first.
    ///
    /// # Errors
    /// The system has no thread to give.
    pub(super) fn start(
        operations: usize,
        begin: impl FnOnce() + Send + 'static,
    ) -> Result<Self, NoThread> {
        let shared = Arc::new(Shared {
            queue: ArrayQueue::new(operations.max(1)),
            ended: AtomicBool::new(false),
        });
        let own = Arc::clone(&shared);
        let (here, waiter) = mpsc::channel();
        let thread = thread::spawn("chimaera-submit", move || {
            begin();
            let _ = here.send(std::thread::current());
            own.run();
        })?;
        Ok(Self {
            shared,
            waiter: waiter.recv().expect("the thread says it first"),
            thread: Some(thread),
        })
    }

    /// Hands over an operation. [`Self::wake`] has to follow.
    ///
    /// # Safety
    /// The control block is one of the desk's context, and stays as it is until the operation has ended or the desk was
    /// closed; and so does what it names.
    pub(super) unsafe fn hand_over(&self, desk: &Arc<Desk>, index: u32, address: usize) {
        desk.count.fetch_add(1, Ordering::SeqCst);
        let operation = HandedOver {
            desk: Arc::clone(desk),
            index,
            address,
        };
        if let Err(operation) = self.shared.queue.push(operation) {
            debug_assert!(false, "more operations than can be in flight");
            operation.desk.refuse(index, libc::EAGAIN);
            operation.desk.let_go(1);
        }
    }

    pub(super) fn wake(&self) {
        self.waiter.unpark();
    }
}

impl Drop for SubmittingThread {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Release);
        self.wake();
        if let Some(thread) = self.thread.take() {
            // It does not panic.
            let _ = thread.join();
        }
    }
}

impl Shared {
    /// What the thread does.
    fn run(&self) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            while batch.len() < BATCH
                && let Some(operation) = self.queue.pop()
            {
                batch.push(operation);
            }
            if batch.is_empty() {
                // Whoever hands something over or ends the thread wakes it afterwards.
                if self.ended.load(Ordering::Acquire) {
                    return;
                }
                std::thread::park();
                continue;
            }
            for part in batch.chunk_by(|one, next| Arc::ptr_eq(&one.desk, &next.desk)) {
                submit(part);
            }
            batch.clear();
        }
    }
}

/// Hands operations of one engine to the kernel, and waits as long as that takes.
fn submit(mut operations: &[HandedOver]) {
    let mut refused_since = None;
    while let Some(first) = operations.first() {
        let desk = &first.desk;
        if desk.closing.load(Ordering::SeqCst) {
            desk.let_go(operations.len());
            return;
        }
        let addresses: Vec<_> = operations.iter().map(|one| one.address).collect();
        // SAFETY: the context is alive, as its engine is not dropped before the desk's count is down; and what the
        // addresses name is valid by `hand_over`'s contract.
        let count = match unsafe { io_submit(desk.context, &addresses) } {
            Ok(count) => {
                refused_since = None;
                count
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                let since = refused_since.get_or_insert_with(Instant::now);
                if since.elapsed() < REFUSAL_PATIENCE {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                desk.refuse(first.index, libc::EAGAIN);
                1
            }
            Err(error) => {
                desk.refuse(first.index, error.raw_os_error().unwrap_or(libc::EIO));
                1
            }
        };
        desk.let_go(count);
        operations = &operations[count..];
    }
}

impl Desk {
    pub(super) fn new(context: libc::c_ulong, wake: Arc<EventFd>) -> Arc<Self> {
        Arc::new(Self {
            context,
            wake,
            count: AtomicUsize::new(0),
            refused: SegQueue::new(),
            has_refused: AtomicBool::new(false),
            closing: AtomicBool::new(false),
            lock: Mutex::new(()),
            emptied: Condvar::new(),
        })
    }

    /// Takes what the kernel has refused: index of the control block, and the kernel's error.
    #[inline]
    pub(super) fn take_refused(&self, mut each: impl FnMut(u32, i32)) {
        // Relaxed, as this is looked at on every pass, and comes again: the wake-up follows the store.
        if !self.has_refused.load(Ordering::Relaxed) {
            return;
        }
        self.has_refused.swap(false, Ordering::AcqRel);
        while let Some((index, errno)) = self.refused.pop() {
            each(index, errno);
        }
    }

    fn refuse(&self, index: u32, errno: i32) {
        self.refused.push((index, errno));
        self.has_refused.store(true, Ordering::SeqCst);
        // Fails only if the counter is full, and then the file is readable anyway.
        let _ = self.wake.write(1);
    }

    fn let_go(&self, count: usize) {
        // Either this sees that the desk is being closed, or `close` sees the new count.
        if self.count.fetch_sub(count, Ordering::SeqCst) == count
            && self.closing.load(Ordering::SeqCst)
        {
            let _lock = self.lock.lock();
            self.emptied.notify_all();
        }
    }

    /// Has nothing started any more, and waits until the thread has no operation of this engine's. Blocks.
    pub(super) fn close(&self) {
        self.closing.store(true, Ordering::SeqCst);
        let mut lock = self.lock.lock();
        while self.count.load(Ordering::SeqCst) != 0 {
            self.emptied.wait(&mut lock);
        }
    }
}

/// Hands the kernel control blocks by their addresses. Returns how many it took: at least one.
///
/// # Safety
/// The context is alive; each address is that of a control block, and what that names stays valid until the operation
/// has ended.
pub(super) unsafe fn io_submit(context: libc::c_ulong, addresses: &[usize]) -> io::Result<usize> {
    // SAFETY: the array holds as many addresses as is said; the rest is this function's contract. The kernel copies the
    // blocks during the call.
    let started = unsafe {
        libc::syscall(
            libc::SYS_io_submit,
            context,
            addresses.len() as libc::c_long,
            addresses.as_ptr(),
        )
    };
    usize::try_from(started).map_err(|_| io::Error::last_os_error())
}
