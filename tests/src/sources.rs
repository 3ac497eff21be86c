//! Which files are the project's sources.

use std::fs;
use std::path::PathBuf;

use crate::checkout;

/// The files of the sources whose names end so, without what was built and without hidden folders.
pub fn sources(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![checkout()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .unwrap_or_default();
            if path.is_dir() {
                if !name.starts_with('.') && !name.starts_with("target") {
                    folders.push(path);
                }
            } else if name.ends_with(ending) {
                found.push(path);
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} in {}", checkout().display());
    found.sort();
    found
}
