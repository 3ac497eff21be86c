use super::lookup::{PoolLookup, PoolReservation};
use super::*;
use crate::caller::Standing;
use crate::config::UsersCeiling;
use chimaera_proto::Status;
use chimaera_proto::admin::GetOrCreatePool;
use std::sync::mpsc::{Receiver, channel};

/// A user who is no operator.
const OWN: u32 = 1001;

fn registry() -> PoolRegistry {
    PoolRegistry::new(Operators::default())
}

fn caller(user: u32) -> Caller {
    Caller::of_user(user, Standing::of_user(UsersCeiling::Write))
}

fn asked(name: &str, id: PoolId) -> GetOrCreatePool {
    GetOrCreatePool::new("module", name, id, Vec::new())
}

fn key(id: PoolId) -> PoolKey {
    PoolKey { id, owner: OWN }
}

#[track_caller]
fn reserve<'a>(pools: &'a PoolRegistry, name: &str, id: PoolId) -> PoolReservation<'a> {
    match pools.find_or_reserve(&asked(name, id), &caller(OWN)) {
        Ok(PoolLookup::Reserved(reservation)) => reservation,
        Ok(PoolLookup::Existing(_)) => panic!("pool {name} is new"),
        Err(error) => panic!("{error}"),
    }
}

fn ids(pools: &PoolRegistry) -> Vec<PoolId> {
    pools.state.lock().by_key.keys().map(|key| key.id).collect()
}

#[test]
fn pools_are_limited_and_an_end_makes_room() {
    let pools = registry();
    let name = |number: usize| format!("pool {number}");
    let mut all: Vec<_> = (0..MAX_POOLS)
        .map(|number| reserve(&pools, &name(number), PoolId::NULL))
        .collect();
    let error = pools
        .find_or_reserve(&asked(&name(MAX_POOLS), PoolId::NULL), &caller(OWN))
        .err();
    assert_eq!(error.expect("is refused").failure.status, Status::Busy);
    all.pop();
    let _last = reserve(&pools, &name(MAX_POOLS), PoolId::NULL);
}

#[test]
fn ids_that_hosts_choose_are_free_to_choose_from_and_seldom_the_same() {
    let (one, other) = (registry(), registry());
    for number in 0..100 {
        let name = format!("pool {number}");
        // The reservation is dropped at once: every id can be chosen every time.
        let ids = [&one, &other].map(|pools| reserve(pools, &name, PoolId::NULL).key().id);
        assert!(ids.iter().all(|id| id.major >= PoolId::FIRST_CHOSEN_MAJOR));
        assert_ne!(ids[0], ids[1]);
    }
}

#[test]
fn a_name_is_free_once_its_pool_is_gone_whatever_id_is_asked_for() {
    let pools = registry();
    let (first, second) = (PoolId::new(8000, 0), PoolId::new(9000, 0));
    let reservation = reserve(&pools, "name", first);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| reserve(&pools, "name", second).key().id);
        // Long enough to find the name taken; nothing depends on whether it does.
        std::thread::sleep(Duration::from_millis(20));
        drop(reservation);
        assert_eq!(other.join().expect("joins"), second);
    });
}

#[test]
fn a_claim_that_moves_takes_the_one_id_and_gives_the_other_free() {
    let pools = registry();
    let own = PoolId::new(8000, 7);
    let mut reservation = reserve(&pools, "moves", PoolId::NULL);
    let chosen = reservation.key().id;
    reservation.move_to(key(own)).expect("nobody has it");
    assert_eq!((reservation.key().id, ids(&pools)), (own, vec![own]));
    reservation.move_to(key(own)).expect("it has it");
    let other = reserve(&pools, "other", chosen);
    drop(reservation);
    assert_eq!(ids(&pools), [chosen]);
    drop(other);
    assert_eq!(ids(&pools), []);
}

#[test]
fn a_claim_does_not_move_to_an_id_that_is_taken_and_says_by_whom() {
    let pools = registry();
    let own = PoolId::new(8000, 7);
    let holder = reserve(&pools, "holder", own);
    let mut reservation = reserve(&pools, "moves", PoolId::NULL);
    let chosen = reservation.key().id;
    let cases = [
        (
            own,
            "pool moves: its file or device records the id 8000.7, which pool holder has",
        ),
        (PoolId::ADMIN, "which is the admin pool's in every runtime"),
        (PoolId::NULL, "which stands for no pool"),
    ];
    for (id, words) in cases {
        let error = reservation.move_to(key(id)).expect_err("it is taken");
        assert_eq!(error.failure.status, Status::Busy);
        assert!(error.message.contains(words), "{error}");
        assert_eq!(
            (reservation.key().id, ids(&pools)),
            (chosen, vec![own, chosen])
        );
    }
    drop(holder);
    reservation.move_to(key(own)).expect("it is free again");
}

/// Runs on another thread something that has to wait, and gives the channel on which its result comes.
fn waiting<T: Send + 'static>(wait: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (done, ended) = channel();
    std::thread::spawn(move || done.send(wait()));
    // Long enough for it to wait; nothing depends on whether it does.
    std::thread::sleep(Duration::from_millis(20));
    ended
}

#[test]
fn who_waits_for_an_id_learns_that_its_claim_has_moved_on() {
    const PATIENCE: Duration = Duration::from_secs(30);
    let pools: &'static PoolRegistry = Box::leak(Box::new(registry()));
    let own = PoolId::new(8000, 7);
    let mut reservation = reserve(pools, "moves", PoolId::NULL);
    let chosen = reservation.key().id;
    let destroyer = waiting(move || pools.withdraw(&chosen.into(), &caller(OWN)).map(|_| ()));
    let creator = waiting(move || reserve(pools, "other", chosen).key().id);
    reservation.move_to(key(own)).expect("nobody has it");
    let made = creator.recv_timeout(PATIENCE).expect("it is woken");
    assert_eq!(made, chosen);
    let destroyed = destroyer.recv_timeout(PATIENCE).expect("it is woken");
    let error = destroyed.expect_err("none was made");
    assert_eq!(error.failure.status, Status::PoolNotFound);

    pools.close();
    let (tell, told) = channel();
    let closer = waiting(move || {
        let tell = |text: &str| tell.send(text.to_owned()).expect("listens");
        let end = Instant::now() + 2 * PATIENCE;
        matches!(pools.withdraw_any(tell, end), Withdrawal::NoneLeft)
    });
    let waits_for = told.recv_timeout(PATIENCE).expect("it says so");
    assert_eq!(waits_for, "being made: moves (module module)");
    drop(reservation);
    assert!(closer.recv_timeout(PATIENCE).expect("it is woken"));
}

#[test]
fn each_owner_has_ids_and_names_of_their_own() {
    let pools = registry();
    let id = PoolId::new(8000, 0);
    let _first = reserve(&pools, "name", id);
    let other = caller(1002);
    let Ok(PoolLookup::Reserved(second)) = pools.find_or_reserve(&asked("name", id), &other) else {
        panic!("the other user has no such pool");
    };
    assert_eq!(second.key(), PoolKey { id, owner: 1002 });
    // The name of a third user's pool means none of these.
    for choice in [PoolChoice::from(id), PoolChoice::from("name")] {
        let error = pools
            .find(&choice, &caller(1003))
            .err()
            .expect("is refused");
        assert_eq!(error.failure.status, Status::PermissionDenied, "{error}");
        assert!(error.message.contains("1001:NAME"), "{error}");
    }
    let for_another = GetOrCreatePool {
        owner: Some(1003),
        ..asked("new", PoolId::NULL)
    };
    let refused = pools.find_or_reserve(&for_another, &other).err();
    let error = refused.expect("is refused");
    assert_eq!(error.failure.status, Status::PermissionDenied, "{error}");
}
