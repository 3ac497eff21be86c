//! Commands that repair a pool, for errors that suggest them.

use std::path::Path;

use crate::program;

/// The command that repairs a pool.
pub(super) fn repair(path: &Path, more: &[&str]) -> String {
    let path = program::path(path);
    let words = [&["pool", "check", "--repair"], more, &[&*path]].concat();
    format!("`{}`", program::command_alone(&words))
}

/// What to do where there are several pools with these UUIDs.
pub(super) fn repair_one_of(path: &Path, uuids: &[[u8; 16]]) -> String {
    let one_of: Vec<_> = uuids
        .iter()
        .map(|uuid| repair(path, &["--uuid", &show_uuid(*uuid)]))
        .collect();
    format!(
        "there are several: see which pool should be here, and run {}",
        one_of.join(" or ")
    )
}

/// A UUID as people write it.
pub(super) fn show_uuid(uuid: [u8; 16]) -> String {
    let hex = |bytes: &[u8]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let groups = [
        &uuid[..4],
        &uuid[4..6],
        &uuid[6..8],
        &uuid[8..10],
        &uuid[10..],
    ];
    groups.map(hex).join("-")
}
