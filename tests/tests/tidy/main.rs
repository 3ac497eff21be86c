//! What a machine can hold of how the sources read: widths and lengths, the spelling of limits, one type for a name, no
//! circles of imports. The length of functions is held by clippy (`.clippy.toml`).

#![forbid(unsafe_code)]

mod imports;
mod names;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use chimaera_tests::{checkout, sources};

/// Columns of a line, in characters.
const MAX_LINE_COLUMNS: usize = 120;

/// Lines of a source file.
const MAX_FILE_LINES: usize = 500;

#[test]
fn no_line_is_wider_than_a_screen() {
    let mut wide = Vec::new();
    for file in [".rs", ".md", ".toml", ".sh"].into_iter().flat_map(sources) {
        let contents = fs::read_to_string(&file).expect("a text");
        let is_document = file.extension().is_some_and(|ending| ending == "md");
        for (index, line) in contents.lines().enumerate() {
            // A row of a table cannot be broken.
            let prose = match line.trim_start().strip_prefix("//") {
                Some(comment) => comment.trim_start_matches(['/', '!']),
                None if is_document => line,
                None => "",
            };
            let is_row = prose.trim_start().starts_with('|');
            if line.chars().count() > MAX_LINE_COLUMNS && !is_row {
                wide.push(format!("{}:{}", shown(&file), index + 1));
            }
        }
    }
    assert!(
        wide.is_empty(),
        "more than {MAX_LINE_COLUMNS} columns: {wide:#?}"
    );
}

#[test]
fn clippy_has_the_same_limits_in_every_package() {
    let (workspace, others): (Vec<_>, Vec<_>) = sources("clippy.toml")
        .into_iter()
        .partition(|file| *file == checkout().join(".clippy.toml"));
    let settings = fs::read_to_string(&workspace[0]).expect("a text");
    let settings: Vec<_> = settings
        .lines()
        .filter(|line| line.contains(" = "))
        .collect();
    assert!(!settings.is_empty() && !others.is_empty());
    for other in others {
        // A package's own file takes the place of the workspace's.
        let repeated = fs::read_to_string(&other).expect("a text");
        for setting in &settings {
            let has_it = repeated.lines().any(|line| line == *setting);
            assert!(has_it, "{} lacks: {setting}", shown(&other));
        }
    }
}

#[test]
fn no_file_tells_more_than_one_story() {
    let mut long = Vec::new();
    for file in sources(".rs") {
        let lines = fs::read_to_string(&file).expect("a text").lines().count();
        if lines > MAX_FILE_LINES {
            long.push(format!("{}: {lines}", shown(&file)));
        }
    }
    assert!(
        long.is_empty(),
        "more than {MAX_FILE_LINES} lines: {long:#?}"
    );
}

#[test]
fn limits_are_spelled_in_one_way() {
    const OTHER: [&str; 13] = [
        "BOUND", "CAP", "GREATEST", "LARGEST", "LEAST", "LIMIT", "LONGEST", "MAXIMUM", "MINIMUM",
        "MOST", "SHORTEST", "SMALLEST", "UPPER",
    ];
    let (mut misspelled, mut seen) = (Vec::new(), 0);
    for file in sources(".rs") {
        for name in names::constants(&file) {
            seen += 1;
            let words: Vec<&str> = name.split('_').collect();
            let is_other = words.iter().any(|word| OTHER.contains(word));
            let is_not_first = words[1..].iter().any(|word| ["MAX", "MIN"].contains(word));
            if is_other || is_not_first {
                misspelled.push(format!("{}: {name}", shown(&file)));
            }
        }
    }
    assert!(seen > 500, "{seen} constants only: are they still found?");
    assert!(
        misspelled.is_empty(),
        "a limit is called MAX_… or MIN_…: {misspelled:#?}"
    );
}

/// Names that mean the same thing in several crates: what every module's client or contract has, what stands in for
/// a type of the standard library, a daemon that a test or a benchmark starts, and the host as seen from both sides.
const SHARED_NAMES: [&str; 9] = [
    "Client",
    "CreateOptions",
    "Daemon",
    "Error",
    "Host",
    "Method",
    "Mutex",
    "MutexGuard",
    "Result",
];

#[test]
fn one_name_is_one_type() {
    let mut places: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for file in sources(".rs") {
        for name in names::visible_types(&file) {
            places.entry(name).or_default().push(shown(&file));
        }
    }
    let seen = places.len();
    assert!(seen > 300, "{seen} types only: are they still found?");
    places.retain(|name, files| files.len() > 1 && !SHARED_NAMES.contains(&name.as_str()));
    assert!(places.is_empty(), "several types of one name: {places:#?}");
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let mut circles = Vec::new();
    let mut arrows = 0;
    let roots = sources(".rs")
        .into_iter()
        .filter(|file| file.ends_with("src/lib.rs") || file.ends_with("src/main.rs"));
    for root in roots {
        let graph = imports::of_crate(&root);
        arrows += graph
            .values()
            .map(std::collections::BTreeSet::len)
            .sum::<usize>();
        circles.extend(imports::circles(&graph));
    }
    assert!(arrows > 500, "{arrows} imports only: are they still found?");
    assert!(circles.is_empty(), "{circles:#?}");
}

/// A file's path as seen from the root of the sources.
fn shown(file: &Path) -> String {
    let path = file.strip_prefix(checkout()).unwrap_or(file);
    path.display().to_string()
}
