//! Libraries whose module table is wrong: each is refused before any of its code runs, and the daemon goes on.

use std::path::Path;

use chimaera_chimod::abi::{ABI_VERSION, MODULE_MAGIC, ModuleVTable};
use chimaera_tests::Plugins;

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
    let mark = plugins.daemon.folder().join("mark");
    for (table, reason) in &cases {
        plugins.compile("made", &source("made", table, &mark));
        plugins.assert_incompatible("made", reason);
        assert!(!mark.exists(), "its constructor ran: {reason}");
    }
    plugins.assert_bdev_works();
}

#[test]
fn what_is_too_small_or_too_empty_to_be_a_table_is_refused_before_any_code_of_it_runs() {
    let plugins = Plugins::new();
    let mark = plugins.daemon.folder().join("mark");
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
    let mark = plugins.daemon.folder().join("mark");
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
    // A library that the loader refuses in words of its own.
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
    let mark = plugins.daemon.folder().join("mark");
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
