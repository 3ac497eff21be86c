//! `chimaera chimod new`: writes the beginning of a new module.
//!
//! It is the echo module under another name, as that is built and tested here. So a new module works, and never falls
//! behind the SDK.

mod sdk;

use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::process::{Command, Stdio};

use chimaera_client::proto::shell;
use serde::Serialize;

use crate::args::{ChimodCommand, GlobalArguments, NewArguments};
use crate::failure::CommandFailure;
use crate::{output, program};
use sdk::Sdk;

/// A file of the echo module: its path in the new folder, and what it holds.
macro_rules! echo {
    ($($path:literal),+ $(,)?) => {
        [$(($path, include_str!(concat!("../../../echo/", $path)))),+]
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

/// The Rust edition of the echo module.
const EDITION: &str = "2024";

/// Names that modules of Chimaera's have, or with which a module's packages would have the names of packages of
/// Chimaera's.
const TAKEN: [&str; 3] = ["chimaera", "chimaera_bdev", "chimaera_echo"];

pub(crate) fn run(command: &ChimodCommand, global: &GlobalArguments) -> Result<(), CommandFailure> {
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
    /// The workspace in whose folder the new folder lies, without being a member.
    inside: Option<&'a Path>,
    formatted: bool,
}

fn new(arguments: &NewArguments, global: &GlobalArguments) -> Result<(), CommandFailure> {
    let name = &*arguments.name;
    check_free(name)?;
    let sdk = Sdk::find(arguments.sdk.as_deref())?;
    let folder =
        std::path::absolute(name).map_err(CommandFailure::system("cannot find this folder"))?;
    write_module(&folder, name, &sdk)?;
    let formatted = format_module(&folder);
    let inside = workspace_around(&folder);
    if global.json {
        return output::json(&NewReport {
            module: name,
            folder: &folder,
            sdk: sdk.to_string(),
            inside,
            formatted,
        });
    }
    output::line(format_args!(
        "wrote the module {name} into {}, with the SDK of {sdk}; its README.md says how to go on, first \
         with `cd {name} && cargo test`",
        folder.display()
    ));
    if let Some(workspace) = inside {
        output::line(format_args!(
            "it lies inside of the workspace {}, without being a part of it: move it out of there before it grows, \
             or it will be in that one's way",
            workspace.display()
        ));
    }
    if !formatted {
        output::line("there is no rustfmt here: `cargo fmt` formats it where there is");
    }
    Ok(())
}

/// The folder of the Cargo workspace that a folder lies in, if it lies in one.
fn workspace_around(folder: &Path) -> Option<&Path> {
    let is_root = |folder: &&Path| {
        let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap_or_default();
        manifest.lines().any(|line| {
            let line = line.trim_start();
            line.starts_with("[workspace]") || line.starts_with("[workspace.")
        })
    };
    folder.ancestors().skip(1).find(is_root)
}

/// Formats a module: its name makes lines longer or shorter. Gives false if there is no rustfmt, or it fails.
fn format_module(folder: &Path) -> bool {
    let sources = FILES.iter().map(|(path, _)| folder.join(path));
    let mut rustfmt = Command::new("rustfmt");
    rustfmt
        .args(["--quiet", "--edition", EDITION])
        .args(sources.filter(|path| path.extension().is_some_and(|end| end == "rs")))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    rustfmt.status().is_ok_and(|status| status.success())
}

/// Refuses a module's name that is taken.
fn check_free(name: &str) -> Result<(), CommandFailure> {
    if TAKEN.contains(&name) {
        return Err(CommandFailure::usage(format!(
            "{name} is a name of Chimaera's own: choose another one"
        )));
    }
    Ok(())
}

/// Makes a folder and writes a module into it. On failure it removes what it has written.
fn write_module(folder: &Path, name: &str, sdk: &Sdk) -> Result<(), CommandFailure> {
    fs::create_dir(folder).map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => CommandFailure::in_the_way(format!(
            "{} is there already, so nothing was written: give the module another name, or run this in another \
             folder",
            folder.display()
        )),
        _ => cannot_write(folder)(error),
    })?;
    write_files(folder, name, sdk).inspect_err(|_| {
        // This may fail for the same reason as the writing.
        let _ = fs::remove_dir_all(folder);
    })
}

fn cannot_write(path: &Path) -> impl FnOnce(std::io::Error) -> CommandFailure {
    CommandFailure::system(format!("cannot write {}", path.display()))
}

fn write_files(folder: &Path, name: &str, sdk: &Sdk) -> Result<(), CommandFailure> {
    let own = [
        ("Cargo.toml", workspace(name, sdk)),
        ("Cargo.lock", sdk.lock()),
        ("README.md", readme(name)),
        (".gitignore", "/target\n".to_owned()),
    ];
    let copied = FILES.map(|(path, content)| (path, renamed(content, name)));
    for (path, content) in own.into_iter().chain(copied) {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(cannot_write(parent))?;
        }
        fs::write(&path, content).map_err(cannot_write(&path))?;
    }
    Ok(())
}

/// A file of the echo module under another module's name. The names of its packages, libraries, type and module are
/// replaced; the method that echoes keeps its name.
fn renamed(content: &str, name: &str) -> String {
    content
        .replace("chimaera_echo", name)
        .replace("chimaera-echo", &package(name))
        .replace("EchoPool", &format!("{}Pool", type_name(name)))
        .replace("echo module", &format!("{name} module"))
        .replace("echo ChiMod", &format!("{name} ChiMod"))
        .replace(", a template for new ones", "")
}

/// A module's name in the spelling of types.
fn type_name(name: &str) -> String {
    name.split('_')
        .flat_map(|word| {
            word[..1]
                .to_uppercase()
                .chars()
                .chain(word[1..].chars())
                .collect::<Vec<_>>()
        })
        .collect()
}

/// A module's name in the spelling of packages.
fn package(name: &str) -> String {
    name.replace('_', "-")
}

fn workspace(name: &str, sdk: &Sdk) -> String {
    let package = package(name);
    format!(
        "\
[workspace]
resolver = \"3\"
members = [\"proto\", \"plugin\", \"client\"]

[workspace.package]
version = \"0.1.0\"
edition = \"{EDITION}\"
rust-version = \"{rust}\"
license = \"MIT OR Apache-2.0\"
publish = false

[workspace.dependencies]
{sdk}{package}-proto = {{ path = \"proto\" }}
{package}-runtime = {{ path = \"plugin\" }}
{package}-client = {{ path = \"client\" }}

[workspace.lints.rust]
missing_docs = \"warn\"
unsafe_op_in_unsafe_fn = \"warn\"
",
        rust = env!("CARGO_PKG_RUST_VERSION"),
        sdk = sdk.dependencies(),
    )
}

fn readme(name: &str) -> String {
    let package = package(name);
    // An absolute path: in the module's folder, the path by which the program was called may lead elsewhere.
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

`Cargo.lock` began with the versions of other packages with which Chimaera is tested. Build and test it:

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

Users to whom you open a daemon have pools made only of modules that it is started with: `--modules
chimaera_bdev,{name}` adds this one. Nobody but you and root may write the library and the folders on the way to it: the
daemon warns of that in its log, and root's refuses such a library.

A daemon goes on with the library that it has loaded: to use one that was built anew, stop and start it.

`docs/WRITING_A_CHIMOD.md` of Chimaera says what a module may do and must not.
"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;

    #[test]
    fn a_name_that_chimaera_has_itself_is_refused() {
        for name in TAKEN {
            assert!(check_free(name).is_err(), "{name}");
        }
        assert!(check_free("my_module").is_ok());
    }

    #[test]
    fn nothing_of_the_echo_module_is_left_but_the_method_that_echoes() {
        let method = [
            "Method::Echo",
            "Self::Echo",
            "Self::echo",
            "Echo = 0",
            "fn echo",
            ".echo(",
            "async_echo",
        ];
        for (path, content) in FILES {
            let content = renamed(content, "my_module");
            for line in content.lines() {
                let rest = method
                    .iter()
                    .fold(line.to_owned(), |line, words| line.replace(words, ""));
                assert!(!rest.to_lowercase().contains("echo"), "{path}: {line}");
            }
        }
        let plugin = renamed(FILES[2].1, "my_module");
        for words in [
            "name = \"my-module-runtime\"",
            "name = \"my_module_runtime\"",
            "description = \"The my_module ChiMod\"",
        ] {
            assert!(plugin.contains(words), "{plugin}");
        }
        let container = renamed(FILES[3].1, "my_module2");
        let exported = "export_chimod!(MyModule2Pool, \"my_module2\");";
        assert!(container.contains(exported), "{container}");
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
    fn a_module_never_overwrites_what_is_there_and_leaves_nothing_half() {
        let folder = tempfile::tempdir().expect("a folder");
        let remote = Sdk::find(Some("https://example.org/chimaera")).expect("a URL");
        let module = folder.path().join("module");
        write_module(&module, "module", &remote).expect("is written");
        let manifest = fs::read_to_string(module.join("Cargo.toml")).expect("is there");
        let expected = "chimaera-client = { git = \"https://example.org/chimaera\" }";
        assert!(manifest.contains(expected), "{manifest}");
        let mark = module.join("plugin/src/lib.rs");
        fs::write(&mark, "mine").expect("is written");
        let error = write_module(&module, "module", &remote).expect_err("it is there");
        assert_eq!(error.code(), 5);
        let text = error.to_string();
        let beginning = format!("{} is there already, so nothing", module.display());
        assert!(text.starts_with(&beginning), "{text}");
        assert_eq!(fs::read_to_string(&mark).expect("is there"), "mine");
    }

    #[test]
    fn a_workspace_around_is_found_whatever_it_has() {
        let folder = tempfile::tempdir().expect("a folder");
        let inner = folder.path().join("a/b");
        assert_eq!(workspace_around(&inner), None);
        for manifest in [
            "[package]\n\n[workspace]\n",
            "[workspace.package]\nversion = \"1\"\n",
        ] {
            fs::write(folder.path().join("Cargo.toml"), manifest).expect("is written");
            assert_eq!(workspace_around(&inner), Some(folder.path()), "{manifest}");
        }
        fs::write(folder.path().join("Cargo.toml"), "[package]\n").expect("is written");
        assert_eq!(workspace_around(&inner), None);
    }
}
