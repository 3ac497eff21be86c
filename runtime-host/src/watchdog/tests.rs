//! The watchdog, with a clock that the tests move.

use chimaera_proto::PoolId;
use chimaera_proto::hangs::{HangPlace, ModuleCall};

use super::*;
use crate::accounts::PoolAccount;
use crate::calls;
use crate::speakers::Speaker;

const SECOND: Duration = Duration::from_secs(1);

/// A list with one thread, whose word the second value sets.
fn list_of_one(is_worker: bool) -> (Watchlist, impl Fn(u64)) {
    let list = Watchlist::default();
    let (word, set) = Word::of_a_test();
    list.add(word, "a thread".to_owned(), is_worker);
    (list, set)
}

fn hanging_seconds(list: &Watchlist) -> Option<u64> {
    let (count, hangs) = list.hangs();
    assert_eq!(count, hangs.len());
    hangs.first().map(|hang| hang.seconds)
}

#[test]
fn a_call_that_lasts_is_named_until_it_is_over() {
    for is_worker in [true, false] {
        let speaker = Speaker::new("a module", "a pool", PoolAccount::of_nobody_else());
        speaker.set_id(PoolId::new(3, 4));
        let (list, set) = list_of_one(is_worker);
        set(calls::word(speaker.number(), ModuleCall::Flush));
        for _ in 0..5 {
            assert_eq!(list.look(SECOND), INTERVAL);
            assert_eq!(hanging_seconds(&list), None);
        }
        list.look(SECOND);
        let (_, hangs) = list.hangs();
        let place = HangPlace::Module {
            module: "a module".to_owned(),
            pool: "a pool".to_owned(),
            id: Some(PoolId::new(3, 4)),
            call: ModuleCall::Flush,
        };
        assert_eq!(hangs[0].place, place);
        assert_eq!((hangs[0].seconds, hangs[0].is_worker), (5, is_worker));
        list.look(SECOND);
        assert_eq!(hanging_seconds(&list), Some(6));
        set(0);
        list.look(SECOND);
        assert_eq!(hanging_seconds(&list), None);
    }
}

#[test]
fn calls_that_follow_each_other_do_not_hang_however_long_that_goes_on() {
    let speaker = Speaker::new("busy", "a pool", PoolAccount::of_nobody_else());
    let (list, set) = list_of_one(true);
    for _ in 0..20 {
        set(calls::word(speaker.number(), ModuleCall::Submit));
        list.look(SECOND);
        assert_eq!(hanging_seconds(&list), None);
    }
}

#[test]
fn a_worker_that_does_not_go_on_hangs_and_one_that_sleeps_does_not() {
    let (list, set) = list_of_one(true);
    for _ in 0..6 {
        list.look(SECOND);
    }
    assert_eq!(list.hangs().1[0].place, HangPlace::Runtime);
    let sleeps = calls::word(0, ModuleCall::Create) / ModuleCall::Create as u64 * 31;
    set(sleeps);
    for _ in 0..20 {
        assert_eq!(list.look(SECOND), IDLE_INTERVAL);
        assert_eq!(hanging_seconds(&list), None);
    }
}

#[test]
fn another_thread_that_is_in_no_call_does_not_hang() {
    let (list, _set) = list_of_one(false);
    for _ in 0..20 {
        assert_eq!(list.look(SECOND), IDLE_INTERVAL);
    }
    assert_eq!(hanging_seconds(&list), None);
}

#[test]
fn a_thread_is_watched_until_it_says_otherwise() {
    let list = Arc::new(Watchlist::default());
    let speaker = Speaker::new("watched", "a pool", PoolAccount::of_nobody_else());
    let watching = list.watch(false);
    speaker.during(ModuleCall::Create, || {
        for _ in 0..6 {
            list.look(SECOND);
        }
        assert_eq!(hanging_seconds(&list), Some(5));
    });
    drop(watching);
    assert_eq!(hanging_seconds(&list), None);
}
