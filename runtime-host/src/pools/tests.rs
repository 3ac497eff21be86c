use super::*;
use std::sync::mpsc::{Receiver, channel};

#[track_caller]
fn claim<'a>(pools: &'a Pools, name: &str, id: PoolId) -> Claimed<'a> {
    match pools.claim(name, id, "module") {
        Ok(Claim::New(claimed)) => claimed,
        Ok(Claim::Existing(_)) => panic!("pool {name} is new"),
        Err(error) => panic!("{error}"),
    }
}

fn ids(pools: &Pools) -> Vec<PoolId> {
    pools.state.lock().by_id.keys().copied().collect()
}

#[test]
fn pools_are_limited_and_an_end_makes_room() {
    let pools = Pools::default();
    let name = |number: usize| format!("pool {number}");
    let mut all: Vec<_> = (0..MAX_POOLS)
        .map(|number| claim(&pools, &name(number), PoolId::NULL))
        .collect();
    let error = pools.claim(&name(MAX_POOLS), PoolId::NULL, "module").err();
    assert_eq!(error.expect("is refused").failure.status, Status::Busy);
    all.pop();
    let _last = claim(&pools, &name(MAX_POOLS), PoolId::NULL);
}

#[test]
fn ids_that_hosts_choose_are_free_to_choose_from_and_seldom_the_same() {
    let (one, other) = (Pools::default(), Pools::default());
    for number in 0..100 {
        let name = format!("pool {number}");
        // Dropped at once: every id can be chosen every time.
        let ids = [&one, &other].map(|pools| claim(pools, &name, PoolId::NULL).id());
        assert!(ids.iter().all(|id| id.major >= PoolId::FIRST_CHOSEN_MAJOR));
        assert_ne!(ids[0], ids[1]);
    }
}

#[test]
fn a_name_is_free_once_its_pool_is_gone_whatever_id_is_asked_for() {
    let pools = Pools::default();
    let (first, second) = (PoolId::new(8000, 0), PoolId::new(9000, 0));
    let claimed = claim(&pools, "name", first);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| claim(&pools, "name", second).id());
        // Long enough to find the name taken; nothing depends on whether it does.
        std::thread::sleep(Duration::from_millis(20));
        drop(claimed);
        assert_eq!(other.join().expect("joins"), second);
    });
}

#[test]
fn a_claim_that_moves_takes_the_one_id_and_gives_the_other_free() {
    let pools = Pools::default();
    let own = PoolId::new(8000, 7);
    let mut claimed = claim(&pools, "moves", PoolId::NULL);
    let chosen = claimed.id();
    claimed.move_to(own).expect("nobody has it");
    assert_eq!((claimed.id(), ids(&pools)), (own, vec![own]));
    claimed.move_to(own).expect("it has it");
    let other = claim(&pools, "other", chosen);
    drop(claimed);
    assert_eq!(ids(&pools), [chosen]);
    drop(other);
    assert_eq!(ids(&pools), []);
}

#[test]
fn a_claim_does_not_move_to_an_id_that_is_taken_and_says_by_whom() {
    let pools = Pools::default();
    let own = PoolId::new(8000, 7);
    let holder = claim(&pools, "holder", own);
    let mut claimed = claim(&pools, "moves", PoolId::NULL);
    let chosen = claimed.id();
    let cases = [
        (
            own,
            "pool moves has the id 8000.7 by what it stands on, which pool holder has",
        ),
        (PoolId::ADMIN, "which is the admin pool's in every runtime"),
    ];
    for (id, words) in cases {
        let error = claimed.move_to(id).expect_err("it is taken");
        assert_eq!(error.failure.status, Status::Busy);
        assert!(error.message.contains(words), "{error}");
        assert_eq!((claimed.id(), ids(&pools)), (chosen, vec![own, chosen]));
    }
    drop(holder);
    claimed.move_to(own).expect("it is free again");
}

/// Starts something that has to wait, and gives what tells of its end.
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
    let pools: &'static Pools = Box::leak(Box::default());
    let own = PoolId::new(8000, 7);
    let mut claimed = claim(pools, "moves", PoolId::NULL);
    let chosen = claimed.id();
    let destroyer = waiting(move || pools.withdraw(chosen).map(|_| ()));
    let creator = waiting(move || claim(pools, "other", chosen).id());
    claimed.move_to(own).expect("nobody has it");
    let made = creator.recv_timeout(PATIENCE).expect("it is woken");
    assert_eq!(made, chosen);
    let destroyed = destroyer.recv_timeout(PATIENCE).expect("it is woken");
    let error = destroyed.expect_err("none was made");
    assert_eq!(error.failure.status, Status::PoolNotFound);

    pools.close();
    let (tell, told) = channel();
    let closer = waiting(move || {
        let tell = |text: &str| tell.send(text.to_owned()).expect("listens");
        pools.withdraw_any(tell).is_none()
    });
    let waits_for = told.recv_timeout(PATIENCE).expect("it says so");
    assert_eq!(waits_for, "being made: moves (module module)");
    drop(claimed);
    assert!(closer.recv_timeout(PATIENCE).expect("it is woken"));
}
