//! Modules by name: linked into the program, or loaded from plugin folders.
//!
//! A folder that the operator named comes first, so that a module can be replaced. Then comes what is
//! linked into the program. Only then come the folders that lie where the program does: what an earlier
//! release left there must not stand in for what this one brings along.
//!
//! A module that was used once stays the same as long as the host runs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use chimaera_chimod::{Module, ModuleError};
use chimaera_proto::admin::ModuleInfo;
use chimaera_proto::{Status, check_module_name};
use parking_lot::Mutex;

use crate::library;
use crate::log;

/// Environment variable with further plugin folders, separated by colons.
const FOLDERS_VARIABLE: &str = "CHIMAERA_PLUGIN_PATH";

/// The modules that a host can use.
#[derive(Debug)]
pub(crate) struct Modules {
    /// Folders that the operator named.
    named: Vec<PathBuf>,
    linked: Vec<Module>,
    /// Folders that lie where the program does.
    beside: Vec<PathBuf>,
    /// Held while a library is being loaded, which may take as long as its initialisers want.
    loading: Mutex<()>,
    used: Mutex<BTreeMap<String, Used>>,
}

/// A module that was asked for.
#[derive(Debug)]
struct Used {
    module: Module,
    /// Its file, if it is not linked in.
    library: Option<PathBuf>,
}

impl Modules {
    /// `folders` come before those of the environment.
    pub(crate) fn new(linked: &[Module], folders: &[PathBuf]) -> Self {
        let mut named = folders.to_vec();
        if let Some(value) = std::env::var_os(FOLDERS_VARIABLE) {
            named.extend(std::env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()));
        }
        // For as long as the host runs, wherever the process goes meanwhile.
        let named = named
            .into_iter()
            .map(|folder| std::path::absolute(&folder).unwrap_or(folder))
            .collect();
        let program = std::env::current_exe().ok();
        // An installed program's libraries lie in `../lib/chimaera`, a built one's beside it.
        let beside = program
            .as_deref()
            .and_then(Path::parent)
            .map(|folder| vec![folder.join("../lib/chimaera"), folder.to_path_buf()]);
        Self {
            named,
            linked: linked.to_vec(),
            beside: beside.unwrap_or_default(),
            loading: Mutex::default(),
            used: Mutex::default(),
        }
    }

    /// The modules in use, and those that are linked in, by name. Does not wait for one that is being
    /// loaded.
    pub(crate) fn list(&self) -> Vec<ModuleInfo> {
        let used = self.used.lock();
        let mut list: Vec<_> = used
            .iter()
            .map(|(name, used)| used.describe(name))
            .collect();
        let unused = |module: &&Module| !used.contains_key(module.name());
        for module in self.linked.iter().filter(unused) {
            let library = find(&self.named, module.name());
            list.push(ModuleInfo {
                name: module.name().to_owned(),
                // That of a library is known once it is loaded.
                version: library.is_none().then(|| module.version().to_owned()),
                library: library.as_deref().map(show),
            });
        }
        list.sort_by(|one, other| one.name.cmp(&other.name));
        list
    }

    /// The module with this name, loaded if it is not yet. Blocks.
    pub(crate) fn get(&self, name: &str) -> Result<Module, ModuleError> {
        check_module_name(name)
            .map_err(|error| ModuleError::new(Status::InvalidArgument, error.to_string()))?;
        if let Some(module) = self.in_use(name) {
            return Ok(module);
        }
        // Two requests for one module load it once.
        let _loading = self.loading.lock();
        if let Some(module) = self.in_use(name) {
            return Ok(module);
        }
        let found = self.find(name)?;
        let module = found.module.clone();
        log::info(format_args!(
            "module {name} is in use, version {}, {}",
            module.version(),
            found.library.as_deref().map_or("built in".to_owned(), show)
        ));
        self.used.lock().insert(name.to_owned(), found);
        Ok(module)
    }

    fn in_use(&self, name: &str) -> Option<Module> {
        let used = self.used.lock();
        used.get(name).map(|used| used.module.clone())
    }

    fn find(&self, name: &str) -> Result<Used, ModuleError> {
        let load = |path: PathBuf| {
            // In full, for the loader looks for a bare file name in folders of its own.
            let path = std::path::absolute(&path).map_err(|error| {
                ModuleError::system(format_args!("cannot read {}", path.display()), &error)
            })?;
            Ok(Used {
                module: library::load(&path, name)?,
                library: Some(path),
            })
        };
        if let Some(path) = find(&self.named, name) {
            return load(path);
        }
        if let Some(module) = self.linked.iter().find(|module| module.name() == name) {
            return Ok(Used {
                module: module.clone(),
                library: None,
            });
        }
        match find(&self.beside, name) {
            Some(path) => load(path),
            None => Err(self.not_found(name)),
        }
    }

    fn not_found(&self, name: &str) -> ModuleError {
        let folders = self.named.iter().chain(&self.beside);
        let folders: Vec<_> = folders.map(|folder| show(folder)).collect();
        ModuleError::new(
            Status::ModuleNotFound,
            format!(
                "module {name}: no {} in {}: build or install the plugin, or name its folder with \
                 --plugin-dir or {FOLDERS_VARIABLE}",
                file_name(name),
                folders.join(", ")
            ),
        )
    }
}

impl Used {
    fn describe(&self, name: &str) -> ModuleInfo {
        ModuleInfo {
            name: name.to_owned(),
            version: Some(self.module.version().to_owned()),
            library: self.library.as_deref().map(show),
        }
    }
}

/// The module's library in the first of these folders that has one. What cannot be used is found too: it
/// is an error of the operator's to be told of, not to be passed over.
fn find(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    let file = file_name(name);
    folders
        .iter()
        .map(|folder| folder.join(&file))
        .find(|path| path.exists())
}

fn file_name(module: &str) -> String {
    format!("lib{module}_runtime.so")
}

fn show(path: &Path) -> String {
    path.display().to_string()
}
