//! Libraries that cannot be used as modules: each is refused with an error that says which and
//! why, before any of its code runs, and the daemon goes on.

use std::path::{Path, PathBuf};
use std::process::Command;

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery, Runtime, Status};
use chimaera_chimod::abi::{ABI_VERSION, MODULE_MAGIC, ModuleVTable};
use chimaera_client::proto::admin::GetOrCreatePool;
use chimaera_client::proto::shown::brief;
use chimaera_tests::{Daemon, finish, library_folder, skipped};
use serde_json::Value;
use tempfile::TempDir;

/// A daemon that looks for plugins in a folder of the test's first.
struct Plugins {
    folder: TempDir,
    daemon: Daemon,
    runtime: Runtime,
}

impl Plugins {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        let daemon = Daemon::start_with(&["--plugin-dir".as_ref(), folder.path().as_os_str()]);
        let runtime = daemon.connect();
        Self {
            folder,
            daemon,
            runtime,
        }
    }

    /// Where the library of a module is looked for first.
    fn path(&self, module: &str) -> PathBuf {
        self.folder.path().join(format!("lib{module}_runtime.so"))
    }

    fn place(&self, module: &str, library: &[u8]) {
        std::fs::write(self.path(module), library).expect("a library");
    }

    /// Asks for a pool of the module. Gives status and text of the refusal.
    #[track_caller]
    fn refusal(&self, module: &str) -> (Status, String) {
        let request = GetOrCreatePool {
            module: module.to_owned(),
            name: "pool".to_owned(),
            id: PoolId::NULL,
            params: Vec::new(),
        };
        let admin = self.runtime.admin();
        let error = admin
            .get_or_create_pool(PoolQuery::Dynamic, &request)
            .expect_err("the module cannot be used");
        admin.ping().expect("the daemon goes on");
        assert_eq!(admin.list_pools().expect("a list"), [], "no pool is left");
        (error.status(), error.to_string())
    }

    /// The module's library is refused, by name and with this reason.
    #[track_caller]
    fn assert_incompatible(&self, module: &str, reason: &str) {
        let (status, text) = self.refusal(module);
        assert_eq!(status, Status::ModuleIncompatible, "{text}");
        let path = self.path(module);
        assert!(text.contains(path.to_str().expect("UTF-8")), "{text}");
        assert!(text.contains(reason), "{reason:?} in: {text}");
    }

    /// A module that is all right can be used, after whatever was refused.
    fn assert_bdev_works(&self) {
        let client = Client::new(&self.runtime, PoolId::new(8000, 0));
        client
            .create(PoolQuery::Dynamic, "right", &CreateOptions::ram(1 << 20))
            .expect("the right library is used");
        let blocks = client.allocate_blocks(PoolQuery::Local, 1 << 20);
        assert_eq!(blocks.expect("blocks").len(), 1);
        let modules = &self.daemon.status()["modules"];
        assert_eq!(modules[0]["name"], "chimaera_bdev", "{modules}");
        assert_eq!(modules[1], Value::Null, "{modules}");
    }

    /// Builds a C source as the library of a module.
    fn compile(&self, module: &str, source: &str) {
        let file = self.folder.path().join(format!("{module}.c"));
        std::fs::write(&file, source).expect("a source");
        let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compiler.args(["-shared", "-fPIC", "-o"]);
        compiler.arg(self.path(module)).arg(&file);
        let _ = finish(compiler).success();
    }
}

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
        plugins.folder.path().to_str().expect("UTF-8"),
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
    let outside = plugins.folder.path().join("libx");
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

/// A library in C with a module table of this content, and a constructor that leaves a mark.
fn source(module: &str, table: &Table, mark: &Path) -> String {
    let Table {
        magic,
        abi_version,
        size,
        real_size,
        name,
    } = table;
    let mark = mark.display();
    format!(
        "#include <stdint.h>
        #include <stdio.h>
        struct table {{
            uint64_t magic;
            uint32_t abi_version;
            uint32_t size;
            const char *name;
            uint64_t name_len;
            char rest[{real_size} > 32 ? {real_size} - 32 : 1];
        }} __attribute__((packed));
        __attribute__((constructor)) static void loaded(void) {{
            FILE *mark = fopen(\"{mark}\", \"w\");
            if (mark) fclose(mark);
        }}
        struct table CHIMAERA_CHIMOD_{module} = {{
            .magic = {magic}ull, .abi_version = {abi_version}, .size = {size},
            .name = \"{name}\", .name_len = sizeof \"{name}\" - 1,
        }};
        "
    )
}

/// What stands in a module table, as far as a host looks at it before it calls anything.
struct Table {
    magic: u64,
    abi_version: u32,
    size: usize,
    /// Bytes that the symbol really has.
    real_size: usize,
    name: &'static str,
}

/// A name that nobody can print, as the source has it, and as it is shown.
const UNSHOWN: [&str; 2] = ["a\\0b\\033[2J", "\"a\\u{0}b\\u{1b}[2J\""];

const TABLE_BYTES: usize = size_of::<ModuleVTable>();

const RIGHT: Table = Table {
    magic: MODULE_MAGIC,
    abi_version: ABI_VERSION,
    size: TABLE_BYTES,
    real_size: TABLE_BYTES,
    name: "made",
};

#[test]
fn a_table_of_another_version_is_refused_before_any_code_of_it_runs() {
    let plugins = Plugins::new();
    let cases = [
        (
            Table {
                magic: MODULE_MAGIC ^ 1,
                ..RIGHT
            },
            format!(
                "does not start as one (first word {:#018x})",
                MODULE_MAGIC ^ 1
            ),
        ),
        (
            Table {
                abi_version: ABI_VERSION + 1,
                ..RIGHT
            },
            format!(
                "plugin ABI version {}, this host has version {ABI_VERSION}",
                ABI_VERSION + 1
            ),
        ),
        (
            Table {
                abi_version: 0,
                ..RIGHT
            },
            "plugin ABI version 0".to_owned(),
        ),
        (
            Table {
                size: TABLE_BYTES - 8,
                ..RIGHT
            },
            format!(
                "has {} bytes where plugin ABI version {ABI_VERSION} has {TABLE_BYTES} in this host: rebuild it with",
                TABLE_BYTES - 8
            ),
        ),
        (
            Table {
                real_size: TABLE_BYTES - 8,
                ..RIGHT
            },
            "is shorter than it claims".to_owned(),
        ),
    ];
    let mark = plugins.folder.path().join("mark");
    for (table, reason) in &cases {
        plugins.compile("made", &source("made", table, &mark));
        plugins.assert_incompatible("made", reason);
        assert!(!mark.exists(), "its constructor ran: {reason}");
    }
    // A symbol that is too small to be a table's beginning.
    let tiny = format!(
        "#include <stdio.h>
        __attribute__((constructor)) static void loaded(void) {{
            FILE *mark = fopen(\"{}\", \"w\");
            if (mark) fclose(mark);
        }}
        char CHIMAERA_CHIMOD_made[8] = \"CHIMODv\";
        ",
        mark.display()
    );
    plugins.compile("made", &tiny);
    plugins.assert_incompatible("made", "too small to be one");
    // A table that is all zeros is in no section of the file.
    plugins.compile("made", "char CHIMAERA_CHIMOD_made[4096];\n");
    plugins.assert_incompatible("made", "module table");
    assert!(!mark.exists(), "its constructor ran");
    plugins.assert_bdev_works();
}

#[test]
fn what_a_library_calls_itself_is_shown_escaped_and_cut() {
    let plugins = Plugins::new();
    let mark = plugins.folder.path().join("mark");
    let of_name = |name| {
        let table = Table { name, ..RIGHT };
        source("made", &table, &mark)
    };
    let [name, shown] = UNSHOWN;
    plugins.compile("made", &of_name(name));
    let reason =
        format!("is a module that calls itself {shown}, not made: a module's name is up to");
    plugins.assert_incompatible("made", &reason);
    let long = of_name("@").replace('@', &"x".repeat(1 << 20));
    plugins.compile("made", &long);
    plugins.assert_incompatible("made", "xx…\", not made: a module's name is up to");
    // One that the loader has something to say of.
    let lacks = "x".repeat(100_000);
    let lacking =
        of_name("made") + &format!("extern int {lacks}; int *used(void) {{ return &{lacks}; }}");
    plugins.compile("made", &lacking);
    let (_, said) = plugins.refusal("made");
    assert!(
        said.contains("cannot be loaded: ") && said.contains("undefined symbol: xx"),
        "{said}"
    );
    assert!(said.len() < 2000, "{} bytes", said.len());
    plugins.assert_bdev_works();
}

/// Shows also that the constructors of these tests leave their mark when they do run.
#[test]
fn a_table_that_names_another_module_is_refused() {
    let plugins = Plugins::new();
    let mark = plugins.folder.path().join("mark");
    plugins.compile(
        "made",
        &source(
            "made",
            &Table {
                name: "other",
                ..RIGHT
            },
            &mark,
        ),
    );
    plugins.assert_incompatible("made", "is the module other, not made");
    assert!(mark.exists(), "a library with a right table is loaded");
    // It stays in memory, so asking again must not load it again.
    let maps = format!("/proc/{}/maps", plugins.daemon.process_id());
    let mapped = || {
        let maps = std::fs::read_to_string(&maps).expect("the daemon's mappings");
        maps.matches("libmade_runtime.so").count()
    };
    let once = mapped();
    assert!(once > 0, "a copy has the library's name");
    for _ in 0..8 {
        plugins.assert_incompatible("made", "is the module other, not made");
    }
    assert_eq!(mapped(), once);
    plugins.assert_bdev_works();
}
