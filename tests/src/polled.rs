//! A future that the test polls by hand.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::watchdog::until;

/// Counts how often it is woken.
#[derive(Debug, Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A future that has been polled once, and had not ended then.
#[derive(Debug)]
pub struct Polled<F> {
    /// The future.
    pub future: F,
    wakes: Arc<Count>,
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

    /// Whether it was woken since it was made.
    pub fn is_woken(&self) -> bool {
        self.wakes.0.load(Ordering::SeqCst) != 0
    }

    /// Waits until it was woken once at least.
    ///
    /// # Panics
    /// If it is not.
    pub fn wait_until_woken(&self) {
        until("a future is woken", || self.is_woken());
    }
}
