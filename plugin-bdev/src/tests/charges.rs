//! What a pool has its host count before it takes it.

use std::fs;
use std::sync::Arc;

use chimaera_bdev_proto::{CreateParams, MEGABYTE};
use chimaera_chimod::Resource;
use chimaera_proto::Status;
use chimaera_testing::disk_folder;

use crate::testing::{Recorder, TestPool, file_bytes, file_params, name_in, ram_params};

#[test]
fn a_pool_tells_what_it_takes() {
    let memory = Arc::new(Recorder::default());
    let pool = TestPool::create_recorded("m", &ram_params(3 * MEGABYTE), 2, Arc::clone(&memory));
    pool.expect("made");
    assert_eq!(memory.charged(Resource::MemoryBytes), 3 * MEGABYTE);
    assert_eq!(memory.charged(Resource::Descriptors), 0);
    let folder = disk_folder();
    let file = Arc::new(Recorder::default());
    let params = CreateParams {
        io_depth: Some(7),
        ..file_params(file_bytes(3))
    };
    let name = name_in(&folder, "pool");
    let pool = TestPool::create_recorded(&name, &params, 2, Arc::clone(&file));
    pool.expect("made");
    assert_eq!(file.charged(Resource::MemoryBytes), 0);
    assert_eq!(file.charged(Resource::IoDepth), 14, "of two workers");
    assert!(file.charged(Resource::Descriptors) >= 5);
    assert!(file.charged(Resource::AddressBytes) > 0);
}

#[test]
fn a_pool_that_would_take_too_much_is_not_made_and_leaves_nothing() {
    let folder = disk_folder();
    let name = name_in(&folder, "pool");
    let refused = |resource, name: &str, params: &CreateParams| {
        let recorder = Arc::new(Recorder::limiting(resource, 0));
        let made = TestPool::create_recorded(name, params, 1, recorder);
        let Err(error) = made else {
            panic!("a pool was made");
        };
        assert_eq!(error.failure.status, Status::LimitReached, "{error}");
    };
    refused(Resource::MemoryBytes, "memory", &ram_params(MEGABYTE));
    refused(Resource::AddressBytes, "memory", &ram_params(MEGABYTE));
    for resource in [
        Resource::Descriptors,
        Resource::IoDepth,
        Resource::AddressBytes,
    ] {
        refused(resource, &name, &file_params(file_bytes(3)));
        assert!(!fs::exists(&name).expect("the folder is there"));
    }
}
