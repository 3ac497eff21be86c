//! What a mode gives whom: all methods of block device pools, and what is asked of the daemon about a pool.

use chimaera_bdev_client::{
    Block, Client, PageCursor, PoolChoice, PoolId, PoolQuery, Runtime, SetPermissions, Status,
};
use chimaera_bdev_proto::Method;
use chimaera_proto::Right;
use chimaera_tests::exit::NOT_PERMITTED;
use chimaera_tests::{UsersDaemon, assert_refused, has_users, json};

use super::{GROUP, ID, MEMBER, OTHER, OWNER, QUERY, assert_allowed, group, mode, owner, ram, set};

/// What each mode gives the owner, a member of the group, and all others: to read, to write.
const MODES: [(u16, [(bool, bool); 3]); 8] = [
    (0o600, [(true, true), (false, false), (false, false)]),
    (0o640, [(true, true), (true, false), (false, false)]),
    (0o660, [(true, true), (true, true), (false, false)]),
    (0o604, [(true, true), (false, false), (true, false)]),
    (0o606, [(true, true), (false, false), (true, true)]),
    (0o622, [(true, true), (false, true), (false, true)]),
    (0o066, [(false, false), (true, true), (true, true)]),
    (0o000, [(false, false); 3]),
];

/// Somebody with a client of the pool.
struct Class {
    name: &'static str,
    runtime: Runtime,
    pool: Client,
}

impl Class {
    fn new(name: &'static str, runtime: Runtime) -> Self {
        let pool = Client::open_of(&runtime, OWNER.id, "pool");
        Self {
            name,
            pool: pool.expect("everybody may read"),
            runtime,
        }
    }

    fn choice() -> PoolChoice {
        PoolChoice {
            owner: Some(OWNER.id),
            ..ID.into()
        }
    }

    /// Carries out a method on a block that is allocated. Gives what it says, and what has to be freed.
    fn carry_out(&self, method: Method, block: &Block, spare: Block) -> Outcome {
        let (pool, runtime) = (&self.pool, &self.runtime);
        let buffer = || runtime.allocate_buffer(4096).expect("a buffer");
        let mut freed = None;
        let result = match method {
            Method::Read => pool.read(QUERY, block, &mut buffer()).map(drop),
            Method::GetStats => pool.get_stats().map(drop),
            Method::ListBlocks => pool.list_blocks(QUERY, PageCursor::START).map(drop),
            Method::GetMap => pool.map_page(QUERY, PageCursor::START).map(drop),
            Method::Write => pool.write(QUERY, block, &buffer()).map(drop),
            Method::AllocateBlocks => pool
                .allocate_blocks(QUERY, 4096)
                .map(|blocks| freed = Some(blocks[0])),
            Method::FreeBlocks => pool.free_blocks(QUERY, &[spare]).map(drop),
            Method::Flush => pool.flush(QUERY).map(drop),
        };
        Outcome {
            result: result.map_err(|error| error.status()),
            allocated: freed,
        }
    }

    /// All that the mode has to give, and no more.
    fn assert_has(&self, reads: bool, writes: bool, manages: bool, operator: &Client, what: &str) {
        let block = operator.allocate_blocks(QUERY, 4096).expect("a block")[0];
        let what = &format!("{what}, {}", self.name);
        for method in Method::ALL {
            let spare = operator.allocate_blocks(QUERY, 4096).expect("a block")[0];
            let is_allowed = match method.right() {
                Right::Read => reads,
                Right::Write => writes,
                Right::Manage => manages,
            };
            let outcome = self.carry_out(method, &block, spare);
            let expected = match is_allowed {
                true => Ok(()),
                false => Err(Status::PermissionDenied),
            };
            assert_eq!(outcome.result, expected, "{what}, {method:?}");
            if let Some(block) = outcome.allocated {
                operator.free_blocks(QUERY, &[block]).expect("allocated");
            }
            let is_freed = method == Method::FreeBlocks && is_allowed;
            let left = operator.free_blocks(QUERY, &[spare]);
            assert_eq!(left.is_err(), is_freed, "{what}: what was refused was done");
        }
        operator.free_blocks(QUERY, &[block]).expect("allocated");
        let admin = self.runtime.admin();
        let is_known = reads || writes || manages;
        assert_allowed(is_known, admin.find_pool(Self::choice()), what);
        let listed = admin.list_pools().expect("a list");
        assert_eq!(listed.len(), usize::from(is_known), "{what}");
        let fresh = Client::open_of(&self.runtime, OWNER.id, "pool");
        assert_allowed(is_known, fresh, what);
        assert_allowed(writes, admin.flush(Some(Self::choice())), what);
    }
}

struct Outcome {
    result: Result<(), Status>,
    allocated: Option<Block>,
}

#[test]
fn a_mode_gives_each_class_its_methods_and_no_others() {
    if !has_users("modes of pools") {
        return;
    }
    let daemon = UsersDaemon::start();
    let owners = daemon.user(OWNER.with_groups(&[GROUP]));
    ram(&owners, "pool", ID, 0o666);
    set(&owners, OWNER, "pool", group(GROUP)).expect("its own group");
    let classes = [
        Class::new("owner", daemon.user(OWNER)),
        Class::new("member", daemon.user(MEMBER)),
        Class::new("other", daemon.user(OTHER)),
    ];
    let operator = Class::new("operator", daemon.operator());
    for (bits, given) in MODES {
        // The owner can always take back what it gave itself.
        let info = set(&owners, OWNER, "pool", mode(bits)).expect("its own");
        assert_eq!(info.permissions.mode, bits);
        let what = format!("mode {bits:04o}");
        for (class, (reads, writes)) in classes.iter().zip(given) {
            let manages = class.name == "owner";
            class.assert_has(reads, writes, manages, &operator.pool, &what);
        }
        operator.assert_has(true, true, true, &operator.pool, &what);
    }
}

#[test]
fn permissions_are_changed_and_pools_are_destroyed_by_owner_and_operators_only() {
    if !has_users("changing permissions") {
        return;
    }
    let daemon = UsersDaemon::start();
    let owners = daemon.user(OWNER.with_groups(&[GROUP]));
    ram(&owners, "pool", ID, 0o666);
    let (member, other, operator) = (daemon.user(MEMBER), daemon.user(OTHER), daemon.operator());
    let change = |runtime: &Runtime, change: SetPermissions| set(runtime, OWNER, "pool", change);
    let is = |bits: u16, group: u32| {
        let choice = Class::choice();
        let found = operator.admin().find_pool(choice).expect("there");
        let now = found.permissions;
        assert_eq!((now.owner, now.group, now.mode), (OWNER.id, group, bits));
    };
    for (who, runtime) in [("member", &member), ("other", &other)] {
        assert_allowed(false, change(runtime, mode(0o600)), who);
        assert_allowed(false, change(runtime, group(MEMBER.group)), who);
        assert_allowed(false, change(runtime, owner(MEMBER.id)), who);
        assert_allowed(false, runtime.admin().destroy_pool(Class::choice()), who);
        is(0o666, OWNER.group);
    }
    // A group is one of one's own, an owner is for operators to give.
    assert_allowed(false, change(&owners, group(OTHER.group)), "the owner");
    assert_allowed(false, change(&owners, owner(OTHER.id)), "the owner");
    is(0o666, OWNER.group);
    assert_allowed(true, change(&owners, group(GROUP)), "the owner");
    assert_allowed(true, change(&owners, mode(0o640)), "the owner");
    is(0o640, GROUP);
    assert_allowed(true, change(&operator, group(OTHER.group)), "an operator");
    assert_allowed(true, change(&operator, mode(0o604)), "an operator");
    is(0o604, OTHER.group);
    let wrong = change(&owners, mode(0o1777));
    assert_refused(wrong, Status::InvalidArgument, &["mode", "0777"]);
    is(0o604, OTHER.group);

    let destroy = |runtime: &Runtime| runtime.admin().destroy_pool(Class::choice());
    assert_allowed(true, destroy(&owners), "the owner");
    ram(&owners, "pool", ID, 0o666);
    assert_allowed(true, destroy(&operator), "an operator");
    let made = ram(&owners, "pool", ID, 0o000);
    assert_allowed(false, made.get_stats(), "the owner of a pool without bits");
    assert_allowed(true, destroy(&owners), "the owner of a pool without bits");
}

#[test]
fn what_somebody_gives_a_pool_at_its_creation_holds_as_if_it_were_changed_later() {
    if !has_users("permissions at creation") {
        return;
    }
    let daemon = UsersDaemon::start();
    let owners = daemon.user(OWNER.with_groups(&[GROUP]));
    let pool = Client::new(&owners, PoolId::NULL);
    let options = chimaera_bdev_client::CreateOptions::ram(1 << 20).mode(0o640);
    let strange = pool.create(PoolQuery::Dynamic, "pool", &options.group(OTHER.group));
    assert_allowed(false, strange, "a group that is not one's own");
    let made = pool.create(PoolQuery::Dynamic, "pool", &options.group(GROUP));
    let made = made.expect("a group of one's own").permissions;
    assert_eq!(
        (made.owner, made.group, made.mode),
        (OWNER.id, GROUP, 0o640)
    );
    let member = Client::open_of(&daemon.user(MEMBER), OWNER.id, "pool");
    let member = member.expect("a member of the group");
    assert_allowed(true, member.get_stats(), "a member");
    assert_allowed(false, member.allocate_blocks(QUERY, 4096), "a member");
    let other = Client::open_of(&daemon.user(OTHER), OWNER.id, "pool");
    assert_allowed(false, other, "somebody else");
    // A member by nothing but the same user id's name elsewhere is none: groups are the connection's.
    let without = chimaera_tests::User::new(MEMBER.id);
    let without = Client::open_of(&daemon.user(without), OWNER.id, "pool");
    assert_allowed(false, without, "the same user without the group");
}

#[test]
fn commands_show_whose_a_pool_is_and_do_what_rights_give() {
    if !has_users("commands of somebody who may write and not read") {
        return;
    }
    let daemon = UsersDaemon::start();
    ram(&daemon.user(OWNER), "pool", ID, 0o602);
    let stats = ["pool", "stats", "pool"];
    let shown = daemon.run_as(OWNER, &stats).success();
    for line in [
        format!("owner                 {}", OWNER.id),
        "mode                  0602".to_owned(),
    ] {
        assert!(shown.contains(&line), "{line}: {shown}");
    }
    let shown = json(
        &daemon
            .run_as(OWNER, &[&stats[..], &["--json"]].concat())
            .success(),
    );
    assert_eq!(
        (&shown["owner"], &shown["mode"]),
        (&OWNER.id.into(), &"0602".into())
    );
    // Nobody else may read it, and all may write to it: the flush needs no statistics.
    let named = format!("{}:pool", OWNER.id);
    let _ = daemon
        .run_as(OTHER, &["pool", "stats", &named])
        .failure(NOT_PERMITTED);
    let flushed = daemon.run_as(OTHER, &["pool", "flush", &named]).success();
    assert!(flushed.starts_with("flushed pool pool"), "{flushed}");
}

#[test]
fn a_pool_that_exists_with_another_mode_or_group_is_said_to_keep_them() {
    if !has_users("groups of pools") {
        return;
    }
    let daemon = UsersDaemon::start();
    let create = |user, more: &[&str]| {
        let words = ["pool", "create", "pool", "--type", "ram", "--size", "4MiB"];
        daemon.run_as(user, &[&words, more].concat()).success()
    };
    let own = OWNER.group.to_string();
    for more in [
        &["--mode", "664"][..],
        &[],
        &["--mode", "664", "--group", &own],
    ] {
        let said = create(OWNER, more);
        assert!(!said.contains("stays"), "{said}");
    }
    let said = create(OWNER, &["--mode", "600"]);
    for words in [
        "; its mode stays 0664: `",
        "pool chmod 0600 pool",
        "` changes it",
    ] {
        assert!(said.contains(words), "{said}");
    }
    // The command that is shown does it.
    let _ = daemon
        .run_as(OWNER, &["pool", "chmod", "0600", "pool"])
        .success();
    let said = create(OWNER, &["--mode", "600"]);
    assert!(!said.contains("stays"), "{said}");

    let group = GROUP.to_string();
    let owner = OWNER.with_groups(&[GROUP]);
    let said = create(owner, &["--group", &group]);
    let expected = format!("; its group stays {own}: `");
    let command = format!("pool chown :{group} pool");
    for words in [&expected[..], &command, "` changes it"] {
        assert!(said.contains(words), "{said}");
    }
    let _ = daemon
        .run_as(owner, &["pool", "chown", &format!(":{group}"), "pool"])
        .success();
    let said = create(owner, &["--group", &group]);
    assert!(!said.contains("stays"), "{said}");
}
