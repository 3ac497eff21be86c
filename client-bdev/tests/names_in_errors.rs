//! An error names the pool that the call was about, as every operation names it, and says what to do.

use std::path::Path;

use chimaera_bdev_client::{Client, CreateOptions, Error, PoolId, PoolQuery, Runtime, Status};
use chimaera_testing::MIB;

const QUERY: PoolQuery = PoolQuery::Local;

fn embedded() -> Runtime {
    chimaera_bdev_client::embed()
        .workers(1)
        .start()
        .expect("it starts")
}

#[track_caller]
fn assert_says<T>(result: Result<T, Error>, status: Status, words: &[&str]) -> String {
    let Err(error) = result else {
        panic!("it is refused")
    };
    assert_eq!(error.status(), status, "{error}");
    let text = error.to_string();
    for words in words {
        assert!(text.contains(words), "no {words:?} in {text}");
    }
    text
}

/// The path of a file relative to the working folder.
fn relative(path: &Path) -> String {
    let here = std::env::current_dir().expect("a working folder");
    let up = "../".repeat(here.components().count() - 1);
    let path = path.strip_prefix("/").expect("it is whole");
    format!("{up}{}", path.to_str().expect("UTF-8"))
}

#[test]
fn a_file_pool_that_was_created_by_a_relative_path_is_opened_by_it() {
    let runtime = embedded();
    let folder = tempfile::tempdir().expect("a folder");
    let path = relative(&folder.path().join("pool"));
    let whole = std::path::absolute(&path).expect("a path");
    let whole = whole.to_str().expect("UTF-8");
    let words = [whole, "there is no pool named", "create it first"];
    assert_says(Client::open(&runtime, &path), Status::PoolNotFound, &words);

    let options = CreateOptions::file().size(4 * MIB);
    let made = Client::open_or_create(&runtime, &path, &options).expect("it is made");
    for name in [&path, whole] {
        let opened = Client::open(&runtime, name).expect("it is there");
        assert_eq!(opened.pool_id(), made.pool_id());
    }
}

#[test]
fn a_pool_in_memory_comes_before_a_file_of_that_name() {
    let runtime = embedded();
    let made = Client::open_or_create(&runtime, "relative", &CreateOptions::ram(4 * MIB));
    let opened = Client::open(&runtime, "relative").expect("it is there");
    assert_eq!(opened.pool_id(), made.expect("it is made").pool_id());
}

#[test]
fn errors_about_pools_name_them_and_say_what_to_do() {
    let runtime = embedded();
    let admin = runtime.admin();
    let absent = PoolId::new(77, 1);
    let not_found = Status::PoolNotFound;
    let words = ["destroying pool 77.1: ", "check its id"];
    assert_says(admin.destroy_pool(absent), not_found, &words);
    let words = ["flushing pool 77.1: ", "check its id"];
    assert_says(admin.flush(Some(absent.into())), not_found, &words);
    let words = ["finding the pool \"absent\": ", "check its name"];
    assert_says(admin.find_pool("absent"), not_found, &words);

    let options = CreateOptions::ram(4 * MIB);
    let client = Client::new(&runtime, PoolId::new(8000, 0));
    client.create(QUERY, "edge", &options).expect("it is made");
    let mismatch = Status::ParameterMismatch;
    let other_id = Client::new(&runtime, PoolId::new(9999, 9)).create(QUERY, "edge", &options);
    assert_says(other_id, mismatch, &["exists with id 8000.0", "ask for"]);
    let other_name = client.create(QUERY, "othername", &options);
    assert_says(other_name, mismatch, &["exists with name edge", "ask for"]);
}

#[test]
fn an_allocation_whose_list_is_too_long_gives_one_reason() {
    let runtime = embedded();
    let options = CreateOptions::ram(4 * MIB);
    let client = Client::open_or_create(&runtime, "pool", &options).expect("it is made");
    let blocks = client.allocate_blocks(QUERY, u64::MAX);
    let words = ["does not fit a task", "in several steps"];
    let text = assert_says(blocks, Status::NoSpace, &words);
    assert!(!text.contains("free space"), "{text}");
}

#[test]
fn a_name_that_is_too_long_is_cut_in_the_error() {
    let runtime = embedded();
    let long = "n".repeat(5000);
    let options = CreateOptions::ram(4 * MIB);
    let made = Client::open_or_create(&runtime, &long, &options);
    let text = assert_says(made, Status::InvalidArgument, &["4096 bytes, not 5000"]);
    assert!(text.len() < 1000, "{text}");
    let opened = Client::open(&runtime, &long);
    let text = assert_says(opened, Status::PoolNotFound, &["no pool named"]);
    assert!(text.len() < 2000, "{text}");
}
