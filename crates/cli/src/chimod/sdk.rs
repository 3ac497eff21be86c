//! The SDK of a new module: the packages of Chimaera's that it is built on, and where they come from.

use std::fmt::{self, Write};
use std::path::{Path, PathBuf};

use crate::failure::CommandFailure;

/// Packages that a module needs or may need, and their folders in a checkout.
pub(super) const PACKAGES: [(&str, &str); 4] = [
    ("chimaera-chimod", "crates/chimod"),
    ("chimaera-client", "crates/client"),
    ("chimaera-fork", "crates/fork"),
    ("chimaera-proto", "proto"),
];

/// The schemes of URLs that cargo fetches repositories from.
const SCHEMES: [&str; 5] = ["https", "ssh", "git", "http", "file"];

const WANTED: &str = "--sdk takes the path of a checkout of Chimaera, or the URL of a repository of it, which \
                      begins with https:// for example";

/// The versions of other packages with which this program was built.
const LOCK: &str = include_str!("../../../../Cargo.lock");

/// Where the packages of Chimaera's come from that a module is built on.
#[derive(Debug)]
pub(super) enum Sdk {
    /// A checkout, by its absolute path.
    Folder(String),
    /// A repository, by its URL.
    Git(String),
}

impl fmt::Display for Sdk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Folder(text) | Self::Git(text)) = self;
        f.write_str(text)
    }
}

impl Sdk {
    /// The SDK that was named, else the checkout that this program was built from.
    pub(super) fn find(named: Option<&str>) -> Result<Self, CommandFailure> {
        const BUILT_FROM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        match named {
            Some(url) if url.contains("://") => Self::at_url(url),
            Some(name) => Self::in_folder(Path::new(name)).map_err(|failure| explain(failure, name)),
            None => Self::in_folder(Path::new(BUILT_FROM)).map_err(|_| {
                CommandFailure::not_found(format!(
                    "the checkout that this program was built from is not there any more: {BUILT_FROM}; give \
                     one with --sdk, as a path or as the URL of a repository"
                ))
            }),
        }
    }

    fn at_url(url: &str) -> Result<Self, CommandFailure> {
        let (scheme, rest) = url.split_once("://").unwrap_or_default();
        let (host, path) = rest.split_once('/').unwrap_or((rest, ""));
        let wrong = if !SCHEMES.contains(&scheme) {
            format!("it begins with {}:// instead", SCHEMES.join("://, "))
        } else if path.is_empty() || host.is_empty() != (scheme == "file") {
            match scheme {
                "file" => "the path after file:// begins with a slash".to_owned(),
                _ => "it has a host, a slash and a path".to_owned(),
            }
        } else if url
            .contains(|character: char| character.is_whitespace() || character.is_control())
        {
            "there is no space in one".to_owned()
        } else {
            return Ok(Self::Git(url.to_owned()));
        };
        Err(CommandFailure::usage(format!(
            "\"{}\" is no URL of a repository: {wrong}",
            url.escape_debug()
        )))
    }

    fn in_folder(folder: &Path) -> Result<Self, CommandFailure> {
        let shown = folder.display();
        let whole = folder
            .canonicalize()
            .map_err(|error| CommandFailure::not_found(format!("{shown}: {error}: {WANTED}")))?;
        let missing = PACKAGES
            .iter()
            .find(|(_, place)| !manifest(&whole, place).is_file());
        if let Some((_, place)) = missing {
            return Err(CommandFailure::not_found(format!(
                "{shown} is no checkout of Chimaera, as it has no {place}/Cargo.toml: {WANTED}"
            )));
        }
        let whole = whole.into_os_string().into_string().map_err(|path| {
            CommandFailure::usage(format!(
                "{} is not UTF-8, and a manifest cannot name it: move the checkout",
                path.display()
            ))
        })?;
        Ok(Self::Folder(whole))
    }

    /// The packages as dependencies in a manifest.
    pub(super) fn dependencies(&self) -> String {
        PACKAGES
            .map(|(package, place)| match self {
                Self::Folder(folder) => {
                    let path = quoted(&format!("{folder}/{place}"));
                    format!("{package} = {{ path = {path} }}\n")
                }
                Self::Git(url) => format!("{package} = {{ git = {} }}\n", quoted(url)),
            })
            .concat()
    }

    /// A lock file with the versions of other packages with which the SDK was tested, or with which this program was
    /// built where the SDK's are not known. Cargo removes what a module does not need.
    pub(super) fn lock(&self) -> String {
        let own = match self {
            Self::Folder(folder) => {
                std::fs::read_to_string(Path::new(folder).join("Cargo.lock")).ok()
            }
            Self::Git(_) => None,
        };
        own.unwrap_or_else(|| LOCK.to_owned())
    }
}

/// A better failure for an SDK that is not a folder, where it was meant to be a URL.
fn explain(failure: CommandFailure, name: &str) -> CommandFailure {
    match name.split_once(':') {
        Some((user, path)) if user.contains('@') && !user.contains('/') => {
            CommandFailure::usage(format!(
                "\"{}\" is no URL that cargo takes: write ssh://{user}/{}",
                name.escape_debug(),
                path.trim_start_matches('/')
            ))
        }
        _ => failure,
    }
}

fn manifest(folder: &Path, place: &str) -> PathBuf {
    folder.join(place).join("Cargo.toml")
}

/// A text as a string in TOML.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        // Writing to a string does not fail.
        let _ = match character {
            '"' | '\\' => write!(quoted, "\\{character}"),
            control if control.is_control() => write!(quoted, "\\u{:04X}", u32::from(control)),
            other => write!(quoted, "{other}"),
        };
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(named: &str) -> String {
        Sdk::find(Some(named)).expect_err(named).to_string()
    }

    #[test]
    fn a_checkout_is_known_by_its_packages() {
        let here = Sdk::find(None).expect("the checkout of this test");
        assert!(matches!(here, Sdk::Folder(_)));
        assert!(here.lock().contains("name = \"chimaera-chimod\""));
        let folder = tempfile::tempdir().expect("a folder");
        let elsewhere = folder.path().to_str().expect("UTF-8");
        let text = refusal(elsewhere);
        assert!(text.contains("has no crates/chimod/Cargo.toml"), "{text}");
        for absent in ["", "github.com/somebody/chimaera", "/nowhere"] {
            let text = refusal(absent);
            assert!(text.contains("begins with https://"), "{text}");
        }
    }

    #[test]
    fn a_repository_is_one_that_cargo_fetches_from() {
        for url in [
            "https://example.org/chimaera",
            "ssh://git@example.org/chimaera.git",
            "file:///srv/chimaera",
        ] {
            let sdk = Sdk::find(Some(url)).expect(url);
            assert!(matches!(&sdk, Sdk::Git(known) if known == url));
            assert!(sdk.lock().contains("name = \"chimaera-chimod\""));
        }
        for (url, words) in [
            ("ftp://example.org/chimaera", "begins with https://, ssh://"),
            ("://example.org/chimaera", "begins with https://"),
            ("https://", "a host, a slash and a path"),
            ("https://example.org", "a host, a slash and a path"),
            ("https:///chimaera", "a host, a slash and a path"),
            ("file://srv/chimaera", "begins with a slash"),
            ("https://example.org/my chimaera", "no space"),
            ("https://example.org/a\nb", "no space"),
            (
                "git@example.org:somebody/chimaera.git",
                "write ssh://git@example.org/somebody/chimaera.git",
            ),
        ] {
            let text = refusal(url);
            assert!(text.contains(words), "{text}");
        }
    }

    #[test]
    fn any_text_is_a_string_in_a_manifest() {
        assert_eq!(quoted("/a b"), "\"/a b\"");
        assert_eq!(quoted("\"\\\n\u{7f}ß"), "\"\\\"\\\\\\u000A\\u007Fß\"");
    }
}
