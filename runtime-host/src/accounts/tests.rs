//! Tests of accounts.

use super::*;

const NONE: u64 = u64::MAX;

/// Accounts in which pools have these limits for sessions, users, all users, everybody.
fn accounts([session, user, users, whole]: [u64; 4]) -> Arc<Accounts> {
    let of = |limit| Amounts::all(NONE).with(Resource::Pools, limit);
    Accounts::new(AccountLimits {
        per_user: of(user),
        per_session: of(session),
        all_users: of(users),
        whole: of(whole),
    })
}

fn whose(refused: Result<Charge, Exceeded>) -> Whose {
    refused.expect_err("beyond a limit").whose
}

#[test]
fn each_limit_holds_and_is_named() {
    let accounts = accounts([2, 3, 5, 7]);
    let user = accounts.holder(1, false);
    let (one, two) = (user.in_session(10), user.in_session(11));
    let _a = one.charge(Resource::Pools, 2).expect("room");
    assert_eq!(whose(one.charge(Resource::Pools, 1)), Whose::Session);
    let b = two.charge(Resource::Pools, 1).expect("room");
    assert_eq!(whose(two.charge(Resource::Pools, 1)), Whose::User(1));
    let other = accounts.holder(2, false);
    let _c = other.charge(Resource::Pools, 2).expect("room");
    assert_eq!(whose(other.charge(Resource::Pools, 1)), Whose::AllUsers);
    let operator = accounts.holder(0, true);
    let _d = operator
        .charge(Resource::Pools, 2)
        .expect("no user's limits");
    assert_eq!(whose(operator.charge(Resource::Pools, 1)), Whose::Everybody);
    // Another resource is another matter.
    let _e = one.charge(Resource::Lanes, 100).expect("room");
    drop(b);
    let _f = other.charge(Resource::Pools, 1).expect("it was given back");
}

#[test]
fn what_is_refused_counts_nothing() {
    let accounts = accounts([NONE, 3, NONE, NONE]);
    let user = accounts.holder(1, false);
    let charge = user.charge(Resource::Pools, 3).expect("room");
    for wanted in [1, u64::MAX] {
        let refused = user.charge(Resource::Pools, wanted).expect_err("no room");
        assert_eq!((refused.used, refused.limit), (3, 3));
    }
    assert_eq!(accounts.of_user(1).of(Resource::Pools), 3);
    drop(charge);
    assert_eq!(accounts.of_user(1), Amounts::default());
    assert!(accounts.state.lock().by_holder.is_empty());
}

#[test]
fn what_is_given_to_somebody_counts_for_them_alone() {
    let accounts = accounts([NONE, 1, NONE, NONE]);
    let operator = accounts.holder(0, true).in_session(4);
    let mut charge = operator.charge(Resource::Pools, 2).expect("room");
    charge.give_to(1);
    assert_eq!(accounts.of_user(0), Amounts::default());
    assert_eq!(accounts.of_session(0, 4), Amounts::default());
    assert_eq!(accounts.of_user(1).of(Resource::Pools), 2);
    drop(charge);
    assert!(accounts.state.lock().by_holder.is_empty());
}

#[test]
fn a_limit_is_told_with_its_use_and_with_who_can_raise_it() {
    let accounts = accounts([NONE, 3, NONE, NONE]);
    let user = accounts.holder(1000, false);
    let _charge = user.charge(Resource::Pools, 3).expect("room");
    let told = user.charge(Resource::Pools, 1).expect_err("no room");
    assert_eq!(
        told.to_string(),
        "user 1000 has 3 pools in this daemon and asks for 1 more, of at most 3 for each user: give some back, or let \
         the daemon's operator raise that (--user-limits pools=…)"
    );
}

#[test]
fn users_leave_something_to_operators_on_every_machine() {
    let limits = AccountLimits::of_this_machine();
    for &resource in Resource::ALL {
        let [user, users, whole] =
            [limits.per_user, limits.all_users, limits.whole].map(|amounts| amounts.of(resource));
        assert!(user <= users && users <= whole, "{resource}");
        assert!(users < whole || whole == NONE, "{resource}");
        assert_eq!(Resource::from_name(resource.name()), Some(resource));
    }
}
