use std::time::Duration;

use super::*;

const SWITCH: Duration = Duration::from_micros(2);
const SLICE: Duration = Duration::from_millis(3);
const PASS: Duration = Duration::from_nanos(100);

/// A worker's passes, in simulated time.
struct ModelWorker {
    sharing: Sharing,
    now: Instant,
    yields: u32,
}

impl ModelWorker {
    fn new() -> Self {
        let now = Instant::now();
        let sharing = Sharing::new(now);
        Self {
            sharing,
            now,
            yields: 0,
        }
    }

    /// A pass that finds work, all of it from clients elsewhere.
    fn works(&mut self) {
        self.now += PASS;
        self.sharing.note_work();
        self.sharing.hold(self.now, || false);
    }

    /// A pass that answers a client beside the worker. `all` says whether all clients are beside it.
    fn answers_beside(&mut self, all: bool) {
        self.sharing.begin();
        self.now += PASS;
        self.sharing.note_work();
        self.sharing.hold(self.now, || all);
    }

    /// Yields once, to a client that then submits a task.
    fn learns_a_switch(&mut self) {
        self.works();
        assert_eq!(self.idles(SWITCH, true), Next::GiveUp);
        self.works();
        assert_eq!(self.sharing.yields.switch(), SWITCH);
    }

    /// A pass that finds no work. If the worker yields after it, that takes as long as `yield_takes`.
    fn idles(&mut self, yield_takes: Duration, all: bool) -> Next {
        self.now += PASS;
        let next = self.sharing.next(self.now, all);
        if next == Next::GiveUp {
            let begin = self.now;
            self.now += yield_takes;
            self.sharing.given = Some((begin, self.now));
            self.yields += 1;
        }
        next
    }
}

#[test]
fn a_worker_among_its_clients_yields_after_each_turn() {
    let mut worker = ModelWorker::new();
    for count in 1..=1000 {
        worker.works();
        assert_eq!(worker.idles(SWITCH, true), Next::GiveUp);
        assert_eq!(worker.yields, count);
    }
}

#[test]
fn one_with_clients_elsewhere_looks_for_those_as_long_as_a_switch_takes() {
    let mut worker = ModelWorker::new();
    worker.works();
    assert_eq!(worker.idles(SWITCH, true), Next::GiveUp);
    worker.works();
    let begin = worker.now;
    while worker.idles(SWITCH, false) == Next::Poll {}
    let looked = worker.now - SWITCH - begin;
    assert!(looked >= SWITCH && looked < 2 * SWITCH, "{looked:?}");
}

#[test]
fn yields_are_rare_when_nobody_wants_the_processor() {
    const LASTS: Duration = Duration::from_millis(10);
    let mut worker = ModelWorker::new();
    worker.works();
    worker.idles(SWITCH, true);
    worker.works();
    let begin = worker.now;
    while worker.now - begin < LASTS {
        worker.idles(SWITCH / 8, true);
    }
    let most = LASTS.as_nanos() / (SWITCH * PAUSE_SWITCHES).as_nanos() + 2;
    assert!(worker.yields > 10 && u128::from(worker.yields) <= most);
}

#[test]
fn beside_a_stranger_it_sleeps_and_tries_again_later() {
    let mut worker = ModelWorker::new();
    worker.works();
    worker.idles(SWITCH, true);
    worker.works();
    assert_eq!(worker.idles(SLICE, true), Next::GiveUp);
    let begin = worker.now;
    let mut sleeps = 0;
    // Each time it is rung, does its work, and has nothing more to do.
    while worker.idles(SLICE, true) == Next::Sleep {
        worker.works();
        sleeps += 1;
    }
    assert!(sleeps > 1000, "{sleeps} sleeps");
    assert!(worker.now - begin > 4 * SLICE);
    assert_eq!(worker.yields, 3);
}

#[test]
fn clients_beside_it_are_held_back_as_long_as_others_keep_it_busy() {
    let mut worker = ModelWorker::new();
    worker.learns_a_switch();
    worker.answers_beside(false);
    assert!(worker.sharing.holds_back());
    let begin = worker.now;
    while worker.sharing.holds_back() {
        // A client elsewhere, which is answered in less than a switch.
        for _ in 0..5 {
            assert_eq!(worker.idles(SWITCH, false), Next::Poll);
        }
        worker.works();
    }
    let held = worker.now - begin;
    assert!(
        held >= SWITCH * HOLD_SWITCHES && held < SWITCH * (HOLD_SWITCHES + 2),
        "{held:?}"
    );
    // Served once more, they are held back again.
    worker.answers_beside(false);
    assert!(worker.sharing.holds_back());
}

#[test]
fn clients_beside_it_are_served_as_soon_as_those_elsewhere_have_nothing_to_do() {
    let mut worker = ModelWorker::new();
    worker.learns_a_switch();
    worker.answers_beside(false);
    let begin = worker.now;
    while worker.sharing.holds_back() {
        // It serves them before it gives the processor up.
        assert_eq!(worker.idles(SWITCH, false), Next::Poll);
    }
    assert!(worker.now - begin < 2 * SWITCH);
}

#[test]
fn nobody_is_held_back_where_all_are_beside_it_or_none_was_answered() {
    let mut worker = ModelWorker::new();
    worker.learns_a_switch();
    worker.answers_beside(true);
    assert!(!worker.sharing.holds_back());
    worker.works();
    assert!(!worker.sharing.holds_back());
    worker.answers_beside(false);
    assert!(worker.sharing.holds_back());
    worker.sharing.end();
    assert!(!worker.sharing.holds_back());
}

#[test]
fn it_does_not_sleep_while_clients_elsewhere_may_submit() {
    let mut worker = ModelWorker::new();
    worker.works();
    worker.idles(SLICE, true);
    for _ in 0..100 {
        assert_eq!(worker.idles(SLICE, false), Next::Poll);
    }
}
