//! What the documents point to is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chimaera_tests::{checkout, text};

/// The files of the sources with this ending.
fn files(ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![checkout()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().map_or("", |name| text(Path::new(name)));
            match path.is_dir() {
                true if !name.starts_with('.') && name != "target" => folders.push(path),
                false if name.ends_with(ending) => found.push(path),
                _ => {}
            }
        }
    }
    assert!(!found.is_empty(), "no {ending} in {}", checkout().display());
    found
}

/// The pieces of a text between single backticks.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.lines()
        .flat_map(|line| line.split('`').skip(1).step_by(2))
}

/// The folders and files at the root that hold the sources.
fn roots() -> BTreeSet<String> {
    let listed = fs::read_dir(checkout()).expect("the root");
    let names = listed.map(|entry| text(&entry.expect("an entry").path()).to_owned());
    names
        .filter_map(|path| Some(Path::new(&path).file_name()?.to_str()?.to_owned()))
        .filter(|name| name != "target")
        .collect()
}

#[test]
fn every_path_that_a_document_names_is_there() {
    let roots = roots();
    let mut missing = Vec::new();
    let mut named = 0;
    for page in files(".md") {
        let contents = fs::read_to_string(&page).expect("a document");
        for path in quoted(&contents) {
            let is_plain = path
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
            let root = path.split('/').next().unwrap_or_default();
            if !is_plain || !path.contains('/') || !roots.contains(root) {
                continue;
            }
            named += 1;
            if !checkout().join(path).exists() {
                missing.push(format!("{}: {path}", page.display()));
            }
        }
    }
    assert!(
        named > 20,
        "{named} paths only: are they still looked for in the right way?"
    );
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let mut missing = Vec::new();
    for page in files(".md") {
        let contents = fs::read_to_string(&page).expect("a document");
        let folder = page.parent().expect("a file lies in a folder");
        for target in contents.split("](").skip(1) {
            let target = target.split(')').next().unwrap_or_default();
            let file = target.split('#').next().unwrap_or_default();
            if !file.is_empty() && !target.contains(':') && !folder.join(file).exists() {
                missing.push(format!("{}: {target}", page.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_law_that_is_cited_is_one() {
    let laws = fs::read_to_string(checkout().join("docs/LAWS.md")).expect("the laws");
    let numbers: Vec<u32> = laws
        .lines()
        .filter_map(|line| line.split_once(". ")?.0.parse().ok())
        .collect();
    let all: Vec<u32> = (1..=numbers.len() as u32).collect();
    assert_eq!(numbers, all, "numbered from 1 without a gap");
    let mut cited = 0;
    for source in files(".rs").into_iter().chain(files(".md")) {
        let contents = fs::read_to_string(&source).expect("a text");
        for citation in contents.split("(law ").skip(1) {
            let digits: String = citation.chars().take_while(char::is_ascii_digit).collect();
            if let Ok(number) = digits.parse::<u32>() {
                cited += 1;
                assert!(
                    numbers.contains(&number),
                    "{}: law {number}",
                    source.display()
                );
            }
        }
    }
    assert!(cited > 0, "no law is cited");
}
