//! `chimaera chimod new`: the beginning of a module of one's own.
//!
//! What is written is the echo module itself, as it is built and tested here, under another name. So a new
//! module is one that works, and cannot fall behind the SDK.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use chimaera_client::proto::shell;
use serde::Serialize;

use crate::args::{ChimodCommand, Global, NewArguments};
use crate::failure::Failure;
use crate::{output, program};

/// A file of the echo module: its path in the new folder, and what it holds.
macro_rules! echo {
    ($($path:literal),+ $(,)?) => {
        [$(($path, include_str!(concat!("../../echo/", $path)))),+]
    };
}

const FILES: [(&str, &str); 9] = echo![
    "proto/Cargo.toml",
    "proto/src/lib.rs",
    "plugin/Cargo.toml",
    "plugin/src/lib.rs",
    "client/Cargo.toml",
    "client/src/lib.rs",
    "client/examples/greet.rs",
    "client/tests/embedded.rs",
    "client/tests/loaded.rs",
];

/// Packages of the SDK that a module needs, and where they lie in a checkout.
const SDK: [(&str, &str); 3] = [
    ("chimaera-chimod", "crates/chimod"),
    ("chimaera-client", "crates/client"),
    ("chimaera-proto", "proto"),
];

/// Names that are modules already, or whose packages would have the names of those that they are built on.
const TAKEN: [&str; 3] = ["chimaera", "chimaera_bdev", "chimaera_echo"];

pub(crate) fn run(command: &ChimodCommand, global: &Global) -> Result<(), Failure> {
    match command {
        ChimodCommand::New(arguments) => new(arguments, global),
    }
}

/// What `chimod new --json` prints.
#[derive(Serialize)]
struct NewReport<'a> {
    module: &'a str,
    folder: &'a Path,
    sdk: String,
}

fn new(arguments: &NewArguments, global: &Global) -> Result<(), Failure> {
    let name = &*arguments.name;
    check_free(name)?;
    let sdk = Sdk::find(arguments.sdk.as_deref())?;
    let folder = Path::new(name);
    write_module(folder, name, &sdk)?;
    if global.json {
        return output::json(&NewReport {
            module: name,
            folder,
            sdk: sdk.to_string(),
        });
    }
    output::line(format_args!(
        "wrote the module {name} into {name}/, with the SDK of {sdk}; its README.md says how to go on, first \
         with `cd {name} && cargo test`"
    ));
    Ok(())
}

/// A module's name that nobody has.
fn check_free(name: &str) -> Result<(), Failure> {
    if TAKEN.contains(&name) {
        return Err(Failure::usage(format!(
            "{name} is a name of Chimaera's own: choose another one"
        )));
    }
    Ok(())
}

/// Where the packages come from that a module is built on.
#[derive(Debug)]
enum Sdk {
    /// A checkout.
    Folder(PathBuf),
    /// A repository.
    Git(String),
}

impl std::fmt::Display for Sdk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => write!(f, "{}", folder.display()),
            Self::Git(url) => f.write_str(url),
        }
    }
}

impl Sdk {
    /// The SDK that was named, else the checkout that this program was built from.
    fn find(named: Option<&str>) -> Result<Self, Failure> {
        const BUILT_FROM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        match named {
            Some(url) if url.contains("://") || url.starts_with("git@") => {
                Ok(Self::Git(url.to_owned()))
            }
            Some(path) => Self::in_folder(Path::new(path)),
            None => Self::in_folder(Path::new(BUILT_FROM)).map_err(|_| {
                Failure::not_found(format!(
                    "the checkout that this program was built from is not there any more: {BUILT_FROM}; give \
                     one with --sdk, as a path or as the URL of a repository"
                ))
            }),
        }
    }

    fn in_folder(folder: &Path) -> Result<Self, Failure> {
        let found = folder.canonicalize().ok().filter(|folder| {
            let is_there = |(_, place): &(_, &str)| folder.join(place).join("Cargo.toml").is_file();
            SDK.iter().all(is_there)
        });
        found.map(Self::Folder).ok_or_else(|| {
            Failure::not_found(format!("{} is no checkout of Chimaera", folder.display()))
        })
    }

    /// A package of the SDK as a dependency.
    fn dependency(&self, package: &str, place: &str) -> String {
        // In TOML as in JSON, such a string reads as the text that it was made of.
        let quoted = |text: &str| serde_json::Value::from(text).to_string();
        match self {
            Self::Folder(folder) => {
                let path = folder.join(place);
                format!(
                    "{package} = {{ path = {} }}",
                    quoted(&path.to_string_lossy())
                )
            }
            Self::Git(url) => format!("{package} = {{ git = {} }}", quoted(url)),
        }
    }
}

fn write_module(folder: &Path, name: &str, sdk: &Sdk) -> Result<(), Failure> {
    let cannot = |path: &Path| Failure::system(format!("cannot write {}", path.display()));
    fs::create_dir(folder).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => Failure::in_the_way(format!(
            "{} is there already: nothing was written",
            folder.display()
        )),
        _ => cannot(folder)(error),
    })?;
    let own = [
        ("Cargo.toml", workspace(name, sdk)),
        ("README.md", readme(name)),
        (".gitignore", "/target\n".to_owned()),
    ];
    let copied = FILES.map(|(path, content)| (path, renamed(content, name)));
    for (path, content) in own.into_iter().chain(copied) {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(cannot(parent))?;
        }
        fs::write(&path, content).map_err(cannot(&path))?;
    }
    Ok(())
}

/// A file of the echo module's as one of this module's. Its packages, libraries and the module are called by
/// their whole names everywhere, which stand for nothing else.
fn renamed(content: &str, name: &str) -> String {
    content
        .replace("chimaera_echo", name)
        .replace("chimaera-echo", &package(name))
}

/// A module's name as the beginning of its packages' names.
fn package(name: &str) -> String {
    name.replace('_', "-")
}

fn workspace(name: &str, sdk: &Sdk) -> String {
    let package = package(name);
    let sdk = SDK.map(|(package, place)| sdk.dependency(package, place));
    format!(
        "\
[workspace]
resolver = \"3\"
members = [\"proto\", \"plugin\", \"client\"]

[workspace.package]
version = \"0.1.0\"
edition = \"2024\"
rust-version = \"{rust}\"
license = \"MIT OR Apache-2.0\"
publish = false

[workspace.dependencies]
{sdk}
{package}-proto = {{ path = \"proto\" }}
{package}-runtime = {{ path = \"plugin\" }}
{package}-client = {{ path = \"client\" }}

[workspace.lints.rust]
missing_docs = \"warn\"
unsafe_op_in_unsafe_fn = \"warn\"
",
        rust = env!("CARGO_PKG_RUST_VERSION"),
        sdk = sdk.join("\n"),
    )
}

fn readme(name: &str) -> String {
    let package = package(name);
    // From within the folder, where the program may be elsewhere than it was called.
    let program = std::env::current_exe().map_or_else(
        |_| "chimaera".to_owned(),
        |path| shell::word(&program::path(&path)).into_owned(),
    );
    format!(
        "\
# {name}

A ChiMod, which began as a copy of Chimaera's echo module: its pools give a word back, reverse a buffer and greet.

| folder | package | holds |
|---|---|---|
| `proto` | `{package}-proto` | the contract: the module's name, its methods, what their arguments mean |
| `plugin` | `{package}-runtime` | the container, built as `lib{name}_runtime.so`, which the daemon loads |
| `client` | `{package}-client` | what applications call |

Build and test it:

```sh
cargo build
cargo test
```

Use it in a daemon. The folder of the library has to be named; the module's name is all that clients say:

```sh
{program} runtime start --detach --plugin-dir target/debug
{program} pool create hello --module {name} --params \"good day\"
{program} pool list
{program} runtime status
cargo run --example greet -- hello
{program} runtime stop
```

A daemon goes on with the library that it has loaded: to use one that was built anew, stop and start it.

`docs/WRITING_A_CHIMOD.md` of Chimaera says what a module may do and must not.
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_chimaera_has_itself_is_refused() {
        for name in TAKEN {
            assert!(check_free(name).is_err(), "{name}");
        }
        assert!(check_free("my_module").is_ok());
    }

    #[test]
    fn nothing_of_the_echo_modules_names_is_left() {
        for (path, content) in FILES {
            let content = renamed(content, "my_module");
            assert!(
                !content.contains("chimaera_echo") && !content.contains("chimaera-echo"),
                "{path}"
            );
        }
        let plugin = renamed(FILES[2].1, "my_module");
        assert!(plugin.contains("name = \"my-module-runtime\""), "{plugin}");
        assert!(plugin.contains("name = \"my_module_runtime\""), "{plugin}");
    }

    #[test]
    fn every_file_of_the_echo_module_is_copied() {
        fn files(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).expect("a folder") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    files(&path, found);
                } else {
                    found.push(path);
                }
            }
        }
        let echo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../echo");
        let mut found = Vec::new();
        files(&echo, &mut found);
        found.sort();
        let mut copied = FILES.map(|(path, _)| echo.join(path));
        copied.sort();
        assert_eq!(found, copied);
    }

    #[test]
    fn an_sdk_is_a_checkout_or_a_repository_and_a_module_never_overwrites() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = Sdk::find(None).expect("the checkout of this test");
        assert!(matches!(here, Sdk::Folder(_)));
        let elsewhere = folder.path().to_str().expect("UTF-8");
        assert!(Sdk::find(Some(elsewhere)).is_err());
        let remote = Sdk::find(Some("https://example.org/chimaera")).expect("a URL");
        let module = folder.path().join("module");
        write_module(&module, "module", &remote).expect("is written");
        let manifest = fs::read_to_string(module.join("Cargo.toml")).expect("is there");
        let expected = "chimaera-client = { git = \"https://example.org/chimaera\" }";
        assert!(manifest.contains(expected), "{manifest}");
        let mark = module.join("plugin/src/lib.rs");
        fs::write(&mark, "mine").expect("is written");
        assert!(write_module(&module, "module", &here).is_err());
        assert_eq!(fs::read_to_string(&mark).expect("is there"), "mine");
    }
}
