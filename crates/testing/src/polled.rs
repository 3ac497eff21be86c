//! Futures that a test polls by hand.

use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use crate::time_limit::until;

/// A waker that counts how often it is woken.
#[derive(Debug, Default)]
pub struct WakeCount(AtomicUsize);

impl WakeCount {
    /// How often it was woken.
    pub fn get(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for WakeCount {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A future that has been polled once, and had not ended then.
#[derive(Debug)]
pub struct Polled<F> {
    /// The future.
    pub future: F,
    /// Counts how often the future is woken.
    pub wakes: Arc<WakeCount>,
}

impl<F: Future + Unpin> Polled<F> {
    /// Polls a future for the first time.
    ///
    /// # Panics
    /// If it ends at once.
    pub fn new(future: F) -> Self {
        let wakes = Arc::default();
        let mut this = Self { future, wakes };
        assert!(this.poll().is_pending(), "it has ended");
        this
    }

    /// Polls it again, on the calling thread.
    pub fn poll(&mut self) -> Poll<F::Output> {
        let waker = Waker::from(Arc::clone(&self.wakes));
        Pin::new(&mut self.future).poll(&mut Context::from_waker(&waker))
    }

    /// Polls it once more, and if it has not ended then, ends it as the test likes.
    pub fn poll_or(mut self, end: impl FnOnce(F) -> F::Output) -> F::Output {
        match self.poll() {
            Poll::Ready(output) => output,
            Poll::Pending => end(self.future),
        }
    }

    /// Whether it was woken since the first poll began.
    pub fn is_woken(&self) -> bool {
        self.wakes.get() != 0
    }

    /// Waits until it was woken once at least.
    ///
    /// # Panics
    /// If it is not.
    pub fn wait_until_woken(&self) {
        until("a future is woken", || self.is_woken());
    }
}

/// Runs a future on the calling thread, which sleeps until it is woken.
pub fn block_on<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut context) {
            Poll::Ready(output) => return output,
            Poll::Pending => thread::park(),
        }
    }
}
