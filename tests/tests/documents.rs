//! What documents and comments point to is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use chimaera_tests::{checkout, sources, text};

/// The pieces of a line between single backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
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
fn every_file_that_a_document_or_comment_names_is_there() {
    let roots = roots();
    let all: Vec<PathBuf> = [".rs", ".md", ".txt", ".sh", ".toml"]
        .into_iter()
        .flat_map(sources)
        .collect();
    let mut missing = Vec::new();
    let mut named = 0;
    for page in sources(".md").into_iter().chain(sources(".rs")) {
        let contents = fs::read_to_string(&page).expect("a text");
        let is_code = page.extension().is_some_and(|ending| ending == "rs");
        let prose = contents.lines().map(|line| match line.split_once("//") {
            Some((_, comment)) if is_code => comment,
            None if is_code => "",
            _ => line,
        });
        for path in prose.flat_map(quoted) {
            let is_plain = path
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"/._-".contains(&byte));
            let path = Path::new(path);
            let root = text(path).split('/').next().unwrap_or_default();
            let is_file = all.iter().any(|file| file.ends_with(path));
            let is_source = ["rs", "md", "txt", "sh", "toml"]
                .iter()
                .any(|ending| path.extension().is_some_and(|given| given == *ending));
            let is_in_a_root = text(path).contains('/') && roots.contains(root);
            if !is_plain || !(is_source || is_in_a_root) {
                continue;
            }
            named += 1;
            if !is_file && !checkout().join(path).exists() {
                missing.push(format!("{}: {}", page.display(), path.display()));
            }
        }
    }
    assert!(
        named > 100,
        "{named} paths only: are they still looked for in the right way?"
    );
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_link_of_a_document_leads_somewhere() {
    let mut missing = Vec::new();
    for page in sources(".md") {
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
    for source in sources(".rs").into_iter().chain(sources(".md")) {
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
