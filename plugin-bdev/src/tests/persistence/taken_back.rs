//! A creation that fails in its middle, when a part of the pool is written, leaves what was there.

use std::fs;
use std::os::unix::fs::MetadataExt;

use chimaera_bdev_proto::{CreateParams, MEGABYTE};
use chimaera_proto::Status;
use chimaera_testing::SystemCallFilter;

use super::{Store, on_every_store};
use crate::testing::{file_bytes, file_params};

/// Fails the creation at its first flush, when a superblock is written, and sees that all is as it was. Gives the
/// error's text.
fn fail(store: &Store, params: &CreateParams, more: &[libc::c_long]) -> String {
    let calls = [&[libc::SYS_fdatasync], more].concat();
    let mut said = String::new();
    SystemCallFilter::refusing(&calls, libc::EIO).around(|| {
        said = store.assert_refused(params, Status::IoError, &["cannot make a pool on"]);
    });
    said
}

#[test]
fn a_blank_file_or_device_is_blank_again() {
    on_every_store(file_bytes(4), |store| {
        let said = fail(store, &file_params(0), &[]);
        assert!(!said.contains("taken back"), "{said}");
        drop(store.open());
    });
}

#[test]
fn a_file_without_space_of_its_own_has_none_again_and_is_as_long_as_it_was() {
    let store = Store::on_file(file_bytes(2));
    fail(&store, &file_params(0), &[]);
    fail(&store, &file_params(file_bytes(9)), &[]);
    let metadata = fs::metadata(&store.name).expect("there");
    assert_eq!((metadata.len(), metadata.blocks()), (file_bytes(2), 0));
}

#[test]
fn a_file_with_space_of_its_own_keeps_it() {
    let store = Store::on_file(0);
    store.write(0, &vec![0; 2 * MEGABYTE as usize + 100]);
    let before = fs::metadata(&store.name).expect("there").blocks();
    assert!(before > 0, "zeroes were written");
    for size in [0, file_bytes(9)] {
        fail(&store, &file_params(size), &[]);
        let after = fs::metadata(&store.name).expect("there").blocks();
        assert!(after >= before, "{after} of {before} blocks");
    }
}

#[test]
fn what_cannot_be_taken_back_is_told() {
    on_every_store(file_bytes(4), |store| {
        let said = fail(store, &file_params(0), &[libc::SYS_fsync]);
        for words in [
            "could not be taken back",
            "set overwrite to make a new pool",
        ] {
            assert!(said.contains(words), "{said}");
        }
    });
}
