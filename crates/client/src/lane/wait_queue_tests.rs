//! The queue, one thread at a time.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::Wake;

use super::*;
use crate::wakers::wake_all;

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

struct Sitter {
    ticket: Ticket,
    woken: Arc<Count>,
}

impl Sitter {
    fn join(queue: &WaitQueue) -> Self {
        let woken = Arc::<Count>::default();
        let ticket = queue
            .join(None, Waker::from(Arc::clone(&woken)), || 0)
            .ticket;
        Self { ticket, woken }
    }

    fn is_woken(&self) -> bool {
        self.woken.0.load(Ordering::SeqCst) != 0
    }
}

fn woken(sitters: &[Sitter]) -> Vec<usize> {
    (0..sitters.len())
        .filter(|&n| sitters[n].is_woken())
        .collect()
}

fn notify(queue: &WaitQueue, available: usize) {
    let mut wakers = Wakers::new();
    queue.notify(|| available, &mut wakers);
    wake_all(wakers);
}

fn leave(queue: &WaitQueue, ticket: Ticket, available: usize) {
    let mut wakers = Wakers::new();
    drop(queue.leave(ticket, || available, &mut wakers));
    wake_all(wakers);
}

#[test]
fn each_record_notifies_one_seat_in_order() {
    let queue = WaitQueue::new();
    let sitters: Vec<_> = (0..4).map(|_| Sitter::join(&queue)).collect();
    notify(&queue, 1);
    assert_eq!(woken(&sitters), [0]);
    // The same record notifies no other seat.
    notify(&queue, 1);
    assert_eq!(woken(&sitters), [0]);
    notify(&queue, 3);
    assert_eq!(woken(&sitters), [0, 1, 2]);
}

#[test]
fn a_notified_seat_that_is_given_up_passes_the_notification_on() {
    let queue = WaitQueue::new();
    let sitters: Vec<_> = (0..3).map(|_| Sitter::join(&queue)).collect();
    notify(&queue, 1);
    leave(&queue, sitters[0].ticket, 1);
    assert_eq!(woken(&sitters), [0, 1]);
    // Given up with the record: there is nothing to pass on.
    leave(&queue, sitters[1].ticket, 0);
    assert_eq!(woken(&sitters), [0, 1]);
    assert!(queue.is_waiting());
    leave(&queue, sitters[2].ticket, 0);
    assert!(!queue.is_waiting());
}

#[test]
fn nobody_overtakes() {
    let queue = WaitQueue::new();
    let sitters: Vec<_> = (0..3).map(|_| Sitter::join(&queue)).collect();
    notify(&queue, 2);
    let seat = |n: usize| Some(sitters[n].ticket);
    assert!(queue.may_submit(seat(0), 2) && queue.may_submit(seat(1), 2));
    assert!(!queue.may_submit(seat(2), 2) && !queue.may_submit(None, 3));
    assert!(queue.may_submit(seat(2), 3) && queue.may_submit(None, 4));
    assert!(!queue.may_submit(seat(0), 0));
}

#[test]
fn a_task_that_comes_too_late_keeps_its_seat() {
    let queue = WaitQueue::new();
    let sitters: Vec<_> = (0..2).map(|_| Sitter::join(&queue)).collect();
    notify(&queue, 1);
    // It comes, and another thread has taken the record without queueing.
    let again = Arc::<Count>::default();
    let waker = Waker::from(Arc::clone(&again));
    let joined = queue.join(Some(sitters[0].ticket), waker, || 0);
    assert!(!joined.may_submit && joined.ticket == sitters[0].ticket);
    notify(&queue, 1);
    assert_eq!(again.0.load(Ordering::SeqCst), 1);
    assert!(!sitters[1].is_woken());
}

#[test]
fn a_seat_that_is_not_used_is_passed_over_and_stays() {
    let queue = WaitQueue::new();
    let sitters: Vec<_> = (0..3).map(|_| Sitter::join(&queue)).collect();
    notify(&queue, 1);
    let pass_over = |now| {
        let mut wakers = Wakers::new();
        queue.pass_over(now, || 1, &mut wakers);
        wake_all(wakers);
    };
    pass_over(Instant::now());
    assert_eq!(woken(&sitters), [0]);
    pass_over(Instant::now() + SEAT_TIMEOUT);
    assert_eq!(woken(&sitters), [0, 1]);
    assert!(queue.may_submit(Some(sitters[1].ticket), 1));
    assert!(!queue.may_submit(Some(sitters[2].ticket), 1));
    assert!(queue.may_submit(Some(sitters[0].ticket), 1));
}
