//! Daemons that are given libraries to load.

use std::iter;
use std::path::{Path, PathBuf};
use std::process::Command;

use chimaera_bdev_client::{Client, CreateOptions, PoolId, PoolQuery, Runtime, Status};
use chimaera_client::proto::admin::GetOrCreatePool;
use chimaera_testing::MIB;
use serde_json::Value;
use tempfile::TempDir;

use crate::daemon::{Daemon, finish};

/// A daemon that looks for plugins in a folder of the test's first.
#[derive(Debug)]
pub struct Plugins {
    folder: TempDir,
    /// The daemon.
    pub daemon: Daemon,
    runtime: Runtime,
}

impl Plugins {
    /// A daemon with nothing to load but what is built in and what it finds beside itself.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it starts a process")]
    pub fn new() -> Self {
        Self::with_folders(&[])
    }

    /// As [`Self::new`], with further folders for plugins.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn with_folders(further: &[&Path]) -> Self {
        let folder = TempDir::new().expect("a folder");
        let folders = iter::once(folder.path()).chain(further.iter().copied());
        let arguments = folders.flat_map(|folder| ["--plugin-dir".as_ref(), folder.as_os_str()]);
        let daemon = Daemon::start_with(&arguments.collect::<Vec<_>>());
        let runtime = daemon.connect();
        Self {
            folder,
            daemon,
            runtime,
        }
    }

    /// The folder that is the daemon's first for plugins.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Where the library of a module is looked for first.
    #[must_use]
    pub fn path(&self, module: &str) -> PathBuf {
        self.folder.path().join(format!("lib{module}_runtime.so"))
    }

    /// Puts these bytes into the place of a module's library.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn place(&self, module: &str, library: &[u8]) {
        std::fs::write(self.path(module), library).expect("a library");
    }

    /// Asks for a pool of the module. Gives status and text of the refusal.
    ///
    /// # Panics
    /// If it is not refused, or leaves anything behind.
    #[track_caller]
    pub fn refusal(&self, module: &str) -> (Status, String) {
        let request = GetOrCreatePool::new(module, "pool", PoolId::NULL, Vec::new());
        let admin = self.runtime.admin();
        let error = admin
            .get_or_create_pool(PoolQuery::Dynamic, &request)
            .expect_err("the module cannot be used");
        admin.ping().expect("the daemon goes on");
        assert_eq!(admin.list_pools().expect("a list"), [], "no pool is left");
        (error.status(), error.to_string())
    }

    /// The module's library is refused, by name and with this reason.
    ///
    /// # Panics
    /// If it is not.
    #[track_caller]
    pub fn assert_incompatible(&self, module: &str, reason: &str) {
        let (status, text) = self.refusal(module);
        assert_eq!(status, Status::ModuleIncompatible, "{text}");
        let path = self.path(module);
        assert!(text.contains(path.to_str().expect("UTF-8")), "{text}");
        assert!(text.contains(reason), "{reason:?} in: {text}");
    }

    /// A good module can be used, whatever was refused before.
    ///
    /// # Panics
    /// If it cannot.
    pub fn assert_bdev_works(&self) {
        let client = Client::new(&self.runtime, PoolId::new(8000, 0));
        client
            .create(PoolQuery::Dynamic, "right", &CreateOptions::ram(MIB))
            .expect("the right library is used");
        let blocks = client.allocate_blocks(PoolQuery::Local, MIB);
        assert_eq!(blocks.expect("blocks").len(), 1);
        let modules = &self.daemon.status()["modules"];
        assert_eq!(modules[0]["name"], "chimaera_bdev", "{modules}");
        assert_eq!(modules[1], Value::Null, "{modules}");
    }

    /// Builds a C source as the library of a module.
    ///
    /// # Panics
    /// If the compiler refuses it.
    pub fn compile(&self, module: &str, source: &str) {
        let file = self.folder.path().join(format!("{module}.c"));
        std::fs::write(&file, source).expect("a source");
        let mut compiler = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        compiler.args(["-shared", "-fPIC", "-o"]);
        compiler.arg(self.path(module)).arg(&file);
        let _ = finish(compiler).success();
    }
}
