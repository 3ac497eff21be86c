//! What tests of errors have in common: pools, and what a refusal must look like.

use std::fmt::Debug;
use std::path::Path;

use chimaera_bdev_client::{Client, CreateOptions, Error, PoolId, PoolQuery, Runtime, Status};

/// A client of the pool 8000 with this minor number.
#[must_use]
pub fn client(runtime: &Runtime, number: u32) -> Client {
    Client::new(runtime, PoolId::new(8000, number))
}

/// A pool of memory of this size.
///
/// # Panics
/// If it cannot be made.
#[must_use]
pub fn memory(runtime: &Runtime, size: u64) -> Client {
    let pool = client(runtime, 0);
    pool.create(PoolQuery::Dynamic, "memory", &CreateOptions::ram(size))
        .expect("the pool is made");
    pool
}

/// Bytes that are free in a pool.
///
/// # Panics
/// If the pool does not say.
#[must_use]
pub fn remaining(pool: &Client) -> u64 {
    pool.get_stats().expect("statistics").remaining_size
}

/// A path as text.
///
/// # Panics
/// If it is not UTF-8.
#[must_use]
pub fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// An error has this status, and its text these words.
///
/// # Panics
/// If not.
#[track_caller]
pub fn assert_refused<T: Debug>(
    result: Result<T, impl Into<Error>>,
    status: Status,
    words: &[&str],
) -> Error {
    let error: Error = match result {
        Ok(value) => panic!("{value:?} instead of {status:?}"),
        Err(error) => error.into(),
    };
    assert_eq!(error.status(), status, "{error}");
    for word in words {
        assert!(error.to_string().contains(word), "{word:?} in: {error}");
    }
    error
}

/// Creating a pool fails so, and leaves no pool behind.
///
/// # Panics
/// If not.
#[track_caller]
pub fn assert_not_created(
    pool: &Client,
    name: &str,
    options: &CreateOptions,
    status: Status,
    words: &[&str],
) -> Error {
    let error = assert_refused(
        pool.create(PoolQuery::Dynamic, name, options),
        status,
        words,
    );
    assert!(error.operation().contains(name), "{error}");
    assert_refused(
        pool.get_stats(),
        Status::PoolNotFound,
        &["create the pool first"],
    );
    let found = pool.runtime().admin().find_pool(name);
    assert_refused(found, Status::PoolNotFound, &[name]);
    error
}
