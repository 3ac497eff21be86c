//! A module refuses a host whose table it cannot use, and says of which versions both are.

use std::sync::Arc;

use chimaera_bdev_proto::MEGABYTE;
use chimaera_chimod::AllowedPaths;
use chimaera_chimod::abi::{ABI_VERSION, Header};
use chimaera_chimod::host::NewPool;
use chimaera_proto::{Permissions, PoolId, Status, codec};

use crate::testing::{ROOT, Recorder, ram_params, table_of};

/// The text with which the module refuses a host whose table begins with another header.
fn refusal(change: impl FnOnce(&mut Header)) -> String {
    let recorder = Arc::new(Recorder::default());
    let mut table = table_of(&recorder);
    change(&mut table.header);
    let params = codec::encode(&ram_params(MEGABYTE)).expect("encodes");
    let pool = NewPool {
        id: PoolId::new(8000, 0),
        id_is_chosen: true,
        name: "pool",
        params: &params,
        creator: ROOT,
        permissions: Permissions::of_owner(0, 0),
        worker_count: 1,
        speaker: 0,
        file: None,
        allowed: AllowedPaths::Any,
    };
    let error = match crate::module().create(Arc::new(table), &pool) {
        Ok(_) => panic!("a pool was made"),
        Err(error) => error,
    };
    assert_eq!(error.failure.status, Status::ModuleIncompatible, "{error}");
    assert!(error.message.contains("rebuild the plugin"), "{error}");
    error.message
}

#[test]
fn a_host_with_another_table_is_refused_with_what_both_sides_have() {
    let said = refusal(|header| header.abi_version += 1);
    let versions = format!(
        "the host has plugin ABI version {}, this plugin was built for version {ABI_VERSION}",
        ABI_VERSION + 1
    );
    assert!(said.contains(&versions), "{said}");
    let said = refusal(|header| header.size -= 8);
    assert!(said.contains("the host's table has "), "{said}");
    let said = refusal(|header| header.magic ^= 1);
    assert!(said.contains("does not start as one"), "{said}");
}
