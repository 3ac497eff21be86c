//! What a pool has its host count before it takes it.

use std::fs;
use std::sync::Arc;

use chimaera_bdev_proto::{CreateParams, MEGABYTE};
use chimaera_chimod::HostResource;
use chimaera_proto::Status;
use chimaera_testing::disk_folder;

use crate::testing::{Recorder, TestPool, file_bytes, file_params, name_in, ram_params};

#[test]
fn a_pool_tells_what_it_takes() {
    let memory = Arc::new(Recorder::default());
    let pool = TestPool::create_recorded("m", &ram_params(3 * MEGABYTE), 2, Arc::clone(&memory));
    pool.expect("made");
    assert_eq!(memory.charged(HostResource::MemoryBytes), 3 * MEGABYTE);
    assert_eq!(memory.charged(HostResource::Descriptors), 0);
    let folder = disk_folder();
    let file = Arc::new(Recorder::default());
    let params = CreateParams {
        io_depth: Some(7),
        ..file_params(file_bytes(3))
    };
    let name = name_in(&folder, "pool");
    let pool = TestPool::create_recorded(&name, &params, 2, Arc::clone(&file));
    pool.expect("made");
    assert_eq!(file.charged(HostResource::MemoryBytes), 0);
    assert_eq!(file.charged(HostResource::IoDepth), 14, "of two workers");
    assert!(file.charged(HostResource::Descriptors) >= 5);
    assert!(file.charged(HostResource::AddressBytes) > 0);
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
    refused(HostResource::MemoryBytes, "memory", &ram_params(MEGABYTE));
    refused(HostResource::AddressBytes, "memory", &ram_params(MEGABYTE));
    for resource in [
        HostResource::Descriptors,
        HostResource::IoDepth,
        HostResource::AddressBytes,
    ] {
        refused(resource, &name, &file_params(file_bytes(3)));
        assert!(!fs::exists(&name).expect("the folder is there"));
    }
}
