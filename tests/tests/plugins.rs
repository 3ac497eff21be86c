//! Libraries that cannot be used as modules: each is refused with an error that says which and
//! why, before any of its code runs, and the daemon goes on.

use std::path::PathBuf;

use chimaera_bdev_client::Status;
use chimaera_client::proto::shown::brief;
use chimaera_tests::{Plugins, library_folder, skipped};

/// The real library of the bdev module.
fn bdev_library() -> Vec<u8> {
    let path = library_folder().join("libchimaera_bdev_runtime.so");
    std::fs::read(path).expect("the library was built")
}

#[test]
fn a_module_without_a_library_is_not_found_and_the_error_says_where_it_was_looked_for() {
    let plugins = Plugins::new();
    let (status, text) = plugins.refusal("absent");
    assert_eq!(status, Status::ModuleNotFound, "{text}");
    for words in [
        "libabsent_runtime.so",
        plugins.folder().to_str().expect("UTF-8"),
        library_folder().to_str().expect("UTF-8"),
        "--plugin-dir",
        "CHIMAERA_PLUGIN_PATH",
    ] {
        assert!(text.contains(words), "{words:?} in: {text}");
    }
    plugins.assert_bdev_works();
}

#[test]
fn a_name_that_is_no_bare_word_is_refused_without_looking_for_it() {
    let plugins = Plugins::new();
    // What the first names would lead to, if they were taken for paths.
    let outside = plugins.folder().join("libx");
    std::fs::create_dir(&outside).expect("a folder");
    std::fs::write(outside.join("y_runtime.so"), bdev_library()).expect("a library");
    let long = "a".repeat(65);
    for name in [
        "x/y",
        "../x",
        "/x",
        "",
        "A b",
        "chimaera bdev",
        "Chimaera_bdev",
        "chimaera_bdev\0",
        "chimaera_bdev\n",
        "chimaera-bdev",
        "chimaera.bdev",
        "größe",
        "2x",
        "_x",
        "x_",
        "x__y",
        &long,
    ] {
        let (status, text) = plugins.refusal(name);
        assert_eq!(status, Status::InvalidArgument, "{name:?}: {text}");
        let shown = format!("\"{}\" is not a module name", brief(name));
        assert!(text.contains(&shown), "{shown} in: {text}");
    }
    let (status, _) = plugins.refusal(&"a".repeat(64));
    assert_eq!(status, Status::ModuleNotFound, "a name as long as they get");
    plugins.assert_bdev_works();
}

#[test]
fn a_truncated_library_is_refused_wherever_it_ends() {
    let plugins = Plugins::new();
    let whole = bdev_library();
    // In the ELF header, after it, in the segments, in the tables at the end.
    let ends = [0, 1, 4, 16, 63, 64, 65, 4096].into_iter();
    let parts = (1..16).map(|part| whole.len() * part / 16);
    let last = [4096, 64, 1].map(|left| whole.len() - left);
    for end in ends.chain(parts).chain(last) {
        plugins.place("chimaera_bdev", &whole[..end]);
        let (status, text) = plugins.refusal("chimaera_bdev");
        assert_eq!(status, Status::ModuleIncompatible, "{end}: {text}");
        assert!(
            text.contains("is truncated") || text.contains("not a complete library"),
            "{end}: {text}"
        );
        assert!(text.contains("build it again"), "{end}: {text}");
    }
    // A hole where the rest should be is no module either.
    let mut hollow = whole[..whole.len() / 2].to_vec();
    hollow.resize(whole.len(), 0);
    plugins.place("chimaera_bdev", &hollow);
    let (status, text) = plugins.refusal("chimaera_bdev");
    assert_eq!(status, Status::ModuleIncompatible, "{text}");

    plugins.place("chimaera_bdev", &whole);
    plugins.assert_bdev_works();
}

#[test]
fn a_file_that_is_no_library_is_refused() {
    let plugins = Plugins::new();
    let complete = "is not a complete library of this kind of machine";
    plugins.place("words", b"This is no library, but it has some words.\n");
    plugins.assert_incompatible("words", complete);
    plugins.place("script", b"#!/bin/sh\nexit 0\n");
    plugins.assert_incompatible("script", complete);
    std::fs::create_dir(plugins.path("folder")).expect("a folder");
    plugins.assert_incompatible("folder", "is not a regular file");
    let rights = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
    nix::unistd::mkfifo(&plugins.path("pipe"), rights).expect("a pipe");
    plugins.assert_incompatible("pipe", "is not a regular file");
    // It stands there for a reason: it is not passed over for another folder's.
    std::os::unix::fs::symlink("/nowhere/library.so", plugins.path("chimaera_bdev"))
        .expect("a link");
    plugins.assert_incompatible(
        "chimaera_bdev",
        "is a symbolic link to /nowhere/library.so, which is not there: build the module",
    );
    std::fs::remove_file(plugins.path("chimaera_bdev")).expect("it was there");
    plugins.assert_bdev_works();
}

#[test]
fn a_file_that_is_too_large_for_a_library_is_refused_without_reading_it() {
    let plugins = Plugins::new();
    let too_large = (1 << 30) + 1;
    let grow = |module: &str, len: u64| {
        let file = std::fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(plugins.path(module));
        let file = file.expect("a file");
        // All of it is a hole.
        file.set_len(len).expect("the file system has holes");
    };
    grow("hollow", 1 << 40);
    plugins.assert_incompatible("hollow", "is not a complete library");
    plugins.place("chimaera_bdev", &bdev_library());
    grow("chimaera_bdev", too_large);
    let reason = format!("is too large: it has {too_large} bytes");
    plugins.assert_incompatible("chimaera_bdev", &reason);
    plugins.place("chimaera_bdev", &bdev_library());
    plugins.assert_bdev_works();
}

/// Where an ELF file says what it is.
mod elf {
    pub(super) const CLASS: usize = 4;
    pub(super) const CLASS_32: u8 = 1;
    pub(super) const BYTE_ORDER: usize = 5;
    pub(super) const TYPE: usize = 16;
    pub(super) const TYPE_PROGRAM: u8 = 2;
    pub(super) const MACHINE: usize = 18;
    pub(super) const MACHINE_SPARC: u8 = 43;
}

#[test]
fn a_library_of_another_machine_is_refused() {
    let plugins = Plugins::new();
    let whole = bdev_library();
    let patched = |at: usize, value: u8| {
        let mut library = whole.clone();
        assert_ne!(library[at], value);
        library[at] = value;
        plugins.place("chimaera_bdev", &library);
    };
    patched(elf::CLASS, elf::CLASS_32);
    plugins.assert_incompatible("chimaera_bdev", "of this kind of machine");
    patched(elf::MACHINE, elf::MACHINE_SPARC);
    plugins.assert_incompatible("chimaera_bdev", "is for another kind of machine");
    patched(elf::TYPE, elf::TYPE_PROGRAM);
    plugins.assert_incompatible("chimaera_bdev", "is not a shared library");
    patched(elf::BYTE_ORDER, 2);
    let (status, text) = plugins.refusal("chimaera_bdev");
    assert_eq!(status, Status::ModuleIncompatible, "{text}");
    plugins.place("chimaera_bdev", &whole);
    plugins.assert_bdev_works();
}

/// The file behind a library that this very process uses.
fn system_library() -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    maps.lines()
        .filter_map(|line| line.split_whitespace().nth(5))
        .find(|path| path.contains("/libc.so") || path.contains("/libc-"))
        .map(PathBuf::from)
}

#[test]
fn a_library_that_is_no_module_is_refused() {
    let plugins = Plugins::new();
    match system_library() {
        Some(library) => {
            std::fs::copy(library, plugins.path("libc")).expect("a library");
            plugins.assert_incompatible(
                "libc",
                "is not a ChiMod: it exports no CHIMAERA_CHIMOD_libc",
            );
        }
        None => skipped("the C library as a module", "it is linked statically here"),
    }
    plugins.compile("nothing", "int nothing(void) { return 0; }\n");
    plugins.assert_incompatible("nothing", "is not a ChiMod");
    // A table that is only wanted, not there.
    plugins.compile(
        "wanted",
        "extern char CHIMAERA_CHIMOD_wanted[];\nchar *wanted(void) { return \
         CHIMAERA_CHIMOD_wanted; }\n",
    );
    plugins.assert_incompatible("wanted", "is not a ChiMod");
    plugins.assert_bdev_works();
}

#[test]
fn another_module_under_a_modules_name_is_refused() {
    let plugins = Plugins::new();
    plugins.place("renamed", &bdev_library());
    plugins.assert_incompatible(
        "renamed",
        "exports the module chimaera_bdev, not renamed: ask for the module chimaera_bdev, from a file named \
         libchimaera_bdev_runtime.so",
    );
    plugins.assert_bdev_works();
}
