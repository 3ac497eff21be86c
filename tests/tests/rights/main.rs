//! Real users of root's daemon: what each may do with sockets, pools and methods, and what the daemon refuses. Beside
//! each refusal somebody who is entitled does the same, and succeeds.

#![forbid(unsafe_code)]

mod images;
mod incarnations;
mod lanes;
mod modes;
mod modules;
mod nobody;
mod owners;
mod scrubbing;
mod sockets;

use std::fmt::Debug;
use std::sync::atomic::{AtomicBool, Ordering};

use chimaera_bdev_client::{
    Client, CreateOptions, Error, PoolId, PoolInfo, PoolQuery, Runtime, SetPermissions, Status,
};
use chimaera_tests::{MIB, User, assert_refused};

const QUERY: PoolQuery = PoolQuery::Local;

/// Owns pools.
const OWNER: User = User::new(1001);
/// A member of [`GROUP`] by a supplementary group.
const MEMBER: User = User::new(1002).with_groups(&[GROUP]);
/// Somebody else.
const OTHER: User = User::new(1003);
/// A group of pools and sockets.
const GROUP: u32 = 2001;

const ID: PoolId = PoolId::new(8000, 0);

/// Tells threads to end when it is dropped, also by a panic of the thread that would wait for them.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// A memory pool of the connection's user.
fn ram(runtime: &Runtime, name: &str, id: PoolId, mode: u16) -> Client {
    let pool = Client::new(runtime, id);
    let options = CreateOptions::ram(4 * MIB).mode(mode);
    let info = pool.create(PoolQuery::Dynamic, name, &options);
    assert!(info.expect("the pool is made").created);
    pool
}

/// Asks for other permissions of a user's pool.
fn set(
    runtime: &Runtime,
    owner: User,
    name: &str,
    change: SetPermissions,
) -> Result<PoolInfo, Error> {
    let mut asked = change;
    asked.pool.owner = Some(owner.id);
    asked.pool.pool = chimaera_proto::admin::PoolName::Name(name.to_owned());
    runtime.admin().set_permissions(&asked)
}

fn mode(mode: u16) -> SetPermissions {
    SetPermissions {
        new_mode: Some(mode),
        ..no_change()
    }
}

fn owner(owner: u32) -> SetPermissions {
    SetPermissions {
        new_owner: Some(owner),
        ..no_change()
    }
}

fn group(group: u32) -> SetPermissions {
    SetPermissions {
        new_group: Some(group),
        ..no_change()
    }
}

fn no_change() -> SetPermissions {
    SetPermissions {
        pool: "".into(),
        new_owner: None,
        new_group: None,
        new_mode: None,
    }
}

/// A result is a success if the act is allowed, and else refused for want of permission.
#[track_caller]
fn assert_allowed<T: Debug>(is_allowed: bool, result: Result<T, impl Into<Error>>, what: &str) {
    let status = result.map(drop).map_err(|error| error.into().status());
    let expected = match is_allowed {
        true => Ok(()),
        false => Err(Status::PermissionDenied),
    };
    assert_eq!(status, expected, "{what}");
}

#[track_caller]
fn assert_denied<T: Debug>(result: Result<T, impl Into<Error>>, words: &[&str]) {
    assert_refused(result, Status::PermissionDenied, words);
}
