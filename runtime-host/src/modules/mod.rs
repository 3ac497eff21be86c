//! Modules by name: linked into the program, or loaded from plugin folders.
//!
//! Folders that the operator named come first, so that a module can be replaced; then the modules that are linked into
//! the program; and only then the folders beside the program: a library that an earlier release left there must not
//! replace what this release has linked in.
//!
//! A module that was used once stays the same as long as the host runs.

mod library;
mod library_file;
mod loaded_library;

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use chimaera_chimod::{Module, ModuleError};
use chimaera_proto::admin::{ModuleInfo, ModuleReplacement};
use chimaera_proto::environment::trusted_variable;
use chimaera_proto::shown::brief;
use chimaera_proto::{Status, check_module_name};
use parking_lot::Mutex;

use crate::caller::Caller;
use crate::config::Config;
use crate::log;
use library_file::{FileStamp, LibraryFile};

/// Environment variable with further plugin folders, separated by colons.
const FOLDERS_VARIABLE: &str = "CHIMAERA_PLUGIN_PATH";

/// The option of `chimaera runtime start` that opens modules to clients of other users.
const MODULES_OPTION: &str = "--modules";

/// The modules that a host can use.
#[derive(Debug)]
pub(crate) struct Modules {
    /// Folders that the operator named.
    named: Vec<PathBuf>,
    linked: Vec<Module>,
    /// Folders beside the program.
    beside: Vec<PathBuf>,
    /// The modules of which clients of other users may have pools made.
    opened: Vec<String>,
    /// Whether a library that others could change is used all the same, with a warning.
    warns_of_open_paths: bool,
    /// Held while a library is being loaded, which may take as long as its initialisers like.
    loading: Mutex<()>,
    used: Mutex<BTreeMap<String, Arc<UsedModule>>>,
    /// What the last look at their files has shown.
    seen: Mutex<Vec<ModuleInfo>>,
}

/// Where a host looks for libraries of modules.
#[derive(Clone, Debug)]
pub struct LibraryFolders {
    /// Folders that the operator named: a library there is used in the place of a module that is linked in.
    pub named: Vec<PathBuf>,
    /// Folders beside the program.
    pub beside: Vec<PathBuf>,
}

impl LibraryFolders {
    /// Those of a host with this configuration.
    #[must_use]
    pub fn new(config: &Config) -> Self {
        let mut named = config.plugin_folders.clone();
        if let Some(value) = trusted_variable(FOLDERS_VARIABLE) {
            named.extend(std::env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()));
        }
        // Made absolute, since the process may change its working folder while the host runs.
        let named = named.into_iter().map(whole_path).collect();
        let program = std::env::current_exe().ok();
        // An installed program's libraries lie in `../lib/chimaera`, a built one's beside it.
        let beside = program.as_deref().and_then(Path::parent).map(|folder| {
            let prefix = folder.parent().unwrap_or(folder);
            vec![prefix.join("lib/chimaera"), folder.to_path_buf()]
        });
        Self {
            named,
            beside: beside.unwrap_or_default(),
        }
    }

    /// Whether a library takes the place of a module that is linked in.
    #[must_use]
    pub fn replace(&self, module: &str) -> bool {
        find(&self.named, module).is_some()
    }
}

/// A module that is in use.
#[derive(Debug)]
struct UsedModule {
    module: Module,
    /// Its file, if it is not linked in.
    library: Option<LibraryFile>,
    /// What a host that is started now would use in its place, as last logged.
    logged: Mutex<Option<(ModuleLocation, Option<FileStamp>)>>,
}

/// Where a module is found.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ModuleLocation {
    Library(PathBuf),
    Linked,
    Nowhere,
}

impl ModuleLocation {
    fn into_replacement(self) -> ModuleReplacement {
        match self {
            Self::Library(path) => ModuleReplacement::Library(show(&path)),
            Self::Linked => ModuleReplacement::BuiltIn,
            Self::Nowhere => ModuleReplacement::Nothing,
        }
    }
}

impl Modules {
    /// The modules that a host with this configuration can use.
    pub(crate) fn new(config: &Config) -> Self {
        let LibraryFolders { named, beside } = LibraryFolders::new(config);
        Self {
            named,
            linked: config.modules.clone(),
            beside,
            opened: opened(config),
            warns_of_open_paths: config.warns_of_open_paths(),
            loading: Mutex::default(),
            used: Mutex::default(),
            seen: Mutex::default(),
        }
    }

    /// What [`Self::list`] gives, without a look at any file: as it was seen last.
    pub(crate) fn known(&self) -> Vec<ModuleInfo> {
        let mut list: Vec<_> = self.seen.lock().clone();
        for (name, used) in &*self.used.lock() {
            let found = list.iter_mut().find(|seen| seen.name == *name);
            let is_as_seen = found.as_ref().is_some_and(|seen| seen.version.is_some());
            if is_as_seen {
                continue;
            }
            let known = ModuleInfo {
                name: name.clone(),
                version: Some(brief(used.module.version()).into_owned()),
                library: used.library_path().map(show),
                removed: false,
                replacement: None,
            };
            match found {
                Some(seen) => *seen = known,
                None => list.push(known),
            }
        }
        for module in &self.linked {
            if !list.iter().any(|seen| seen.name == module.name()) {
                list.push(ModuleInfo {
                    name: module.name().to_owned(),
                    version: Some(brief(module.version()).into_owned()),
                    library: None,
                    removed: false,
                    replacement: None,
                });
            }
        }
        list.sort_by(|one, other| one.name.cmp(&other.name));
        list
    }

    /// The modules in use, and those that are linked in, by name. Does not wait for one that is being
    /// loaded. Looks at their files, which may take as long as a file system likes.
    pub(crate) fn list(&self) -> Vec<ModuleInfo> {
        let used = self.used.lock().clone();
        let mut list: Vec<_> = used
            .iter()
            .map(|(name, used)| ModuleInfo {
                name: name.clone(),
                version: Some(brief(used.module.version()).into_owned()),
                library: used.library_path().map(show),
                removed: used.is_removed(),
                replacement: self
                    .replacement(name, used)
                    .map(ModuleLocation::into_replacement),
            })
            .collect();
        let unused = |module: &&Module| !used.contains_key(module.name());
        for module in self.linked.iter().filter(unused) {
            let library = find(&self.named, module.name());
            list.push(ModuleInfo {
                name: module.name().to_owned(),
                // A library's version is known once it is loaded.
                version: library
                    .is_none()
                    .then(|| brief(module.version()).into_owned()),
                library: library.as_deref().map(show),
                removed: false,
                replacement: None,
            });
        }
        list.sort_by(|one, other| one.name.cmp(&other.name));
        self.seen.lock().clone_from(&list);
        list
    }

    /// Refuses a client of another user a pool of a module that was not opened to such clients: loading it would run
    /// code that the operator may never have meant to run. Says the same whether there is such a module or not.
    ///
    /// # Errors
    /// [`Status::PermissionDenied`], or [`Status::InvalidArgument`] for what is no name of a module.
    pub(crate) fn check_client(&self, name: &str, caller: &Caller) -> Result<(), ModuleError> {
        check_module_name(name)
            .map_err(|error| ModuleError::new(Status::InvalidArgument, error.to_string()))?;
        if caller.is_operator() || self.opened.iter().any(|open| open == name) {
            return Ok(());
        }
        let mut names = self.opened.clone();
        names.push(name.to_owned());
        Err(ModuleError::new(
            Status::PermissionDenied,
            format!(
                "module {name} is not open to user {}: whoever runs this runtime opens it to other users with `{} {}`",
                caller.peer.user_id,
                MODULES_OPTION,
                names.join(",")
            ),
        ))
    }

    /// The module with this name, loaded if it is not loaded yet. Blocks.
    pub(crate) fn get(&self, name: &str) -> Result<Module, ModuleError> {
        check_module_name(name)
            .map_err(|error| ModuleError::new(Status::InvalidArgument, error.to_string()))?;
        if let Some(used) = self.in_use(name) {
            self.log_replacement(name, &used);
            return Ok(used.module.clone());
        }
        // Two requests for one module load it once. A request for a linked module does not wait for a library.
        let is_loaded = self.locate(name) != ModuleLocation::Linked;
        let _loading = is_loaded.then(|| self.loading.lock());
        if let Some(used) = self.in_use(name) {
            return Ok(used.module.clone());
        }
        let used = self.find(name)?;
        let module = used.module.clone();
        let library = used.library_path().map_or("built in".to_owned(), show);
        let before = self.used.lock().insert(name.to_owned(), Arc::new(used));
        if before.is_none() {
            log::info(format_args!(
                "module {name} is in use, version {}, {library}",
                brief(module.version())
            ));
        }
        Ok(module)
    }

    fn in_use(&self, name: &str) -> Option<Arc<UsedModule>> {
        self.used.lock().get(name).cloned()
    }

    /// Where a host that is started now finds a module.
    fn locate(&self, name: &str) -> ModuleLocation {
        if let Some(path) = find(&self.named, name) {
            return ModuleLocation::Library(path);
        }
        if self.linked.iter().any(|module| module.name() == name) {
            return ModuleLocation::Linked;
        }
        find(&self.beside, name).map_or(ModuleLocation::Nowhere, ModuleLocation::Library)
    }

    fn find(&self, name: &str) -> Result<UsedModule, ModuleError> {
        let (module, library) = match self.locate(name) {
            ModuleLocation::Library(path) => {
                let (module, file) = library::load(&path, name, self.warns_of_open_paths)?;
                (module, Some(file))
            }
            ModuleLocation::Linked => {
                let linked = self.linked.iter().find(|module| module.name() == name);
                (linked.cloned().ok_or_else(|| self.not_found(name))?, None)
            }
            ModuleLocation::Nowhere => return Err(self.not_found(name)),
        };
        Ok(UsedModule {
            module,
            library,
            logged: Mutex::default(),
        })
    }

    /// What a host that is started now would use in place of a module in use, if that is something else. Reads the
    /// library once after each change.
    fn replacement(&self, name: &str, used: &UsedModule) -> Option<ModuleLocation> {
        let location = match self.locate(name) {
            // A link whose target does not exist.
            ModuleLocation::Library(path) if FileStamp::at(&path).is_none() => {
                ModuleLocation::Nowhere
            }
            location => location,
        };
        let is_same = match (&location, &used.library) {
            (ModuleLocation::Library(path), Some(file)) => {
                path == file.path() && file.is_as_loaded()
            }
            (ModuleLocation::Linked, None) => true,
            _ => false,
        };
        (!is_same).then_some(location)
    }

    /// Logs of each replacement, once, that it is not in use.
    fn log_replacement(&self, name: &str, used: &UsedModule) {
        let replacement = self.replacement(name, used).map(|location| {
            let stamp = match &location {
                ModuleLocation::Library(path) => FileStamp::at(path),
                _ => None,
            };
            (location, stamp)
        });
        let mut logged = used.logged.lock();
        if *logged == replacement {
            return;
        }
        if let Some((location, _)) = &replacement {
            let restart = "stop the daemon and start it again to use";
            let what = match location {
                ModuleLocation::Library(path) => {
                    format!("{restart} {} as it is now", path.display())
                }
                ModuleLocation::Linked => format!("{restart} what is built in"),
                ModuleLocation::Nowhere => {
                    "a daemon that is started now does not find the module".to_owned()
                }
            };
            let library = used.library_path().map(show);
            let from = library.map_or("which is built in".to_owned(), |path| {
                format!("from {path}")
            });
            let removed = match used.is_removed() {
                true => ", which was removed",
                false => "",
            };
            log::warning(format_args!(
                "module {name}: its pools go on being made by what was loaded, {from}{removed}: {what}"
            ));
        }
        *logged = replacement;
    }

    fn not_found(&self, name: &str) -> ModuleError {
        let folders = self.named.iter().chain(&self.beside);
        let folders: Vec<_> = folders
            .map(|folder| match folder.is_dir() {
                true => show(folder),
                false => format!("{} (which is not there)", folder.display()),
            })
            .collect();
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

impl UsedModule {
    fn library_path(&self) -> Option<&Path> {
        self.library.as_ref().map(LibraryFile::path)
    }

    /// Whether the file that it was loaded from has been removed.
    fn is_removed(&self) -> bool {
        let path = self.library_path();
        path.is_some_and(|path| FileStamp::at(path).is_none())
    }
}

/// The modules that are open to clients of other users.
fn opened(config: &Config) -> Vec<String> {
    let linked = config
        .modules
        .iter()
        .filter(|_| !config.opens_named_modules_only);
    let linked = linked.map(|module| module.name().to_owned());
    linked.chain(config.opened_modules.clone()).collect()
}

/// An absolute path of a folder. Links in it stay, since they may be changed to lead elsewhere; a path with `..` is
/// resolved, so that people can read it.
fn whole_path(folder: PathBuf) -> PathBuf {
    let path = std::path::absolute(&folder).unwrap_or(folder);
    match path.components().any(|part| part == Component::ParentDir) {
        true => path.canonicalize().unwrap_or(path),
        false => path,
    }
}

/// The module's library in the first of these folders that has one. A file that cannot be used, such as a link whose
/// target does not exist, counts as well: that is the operator's mistake, to be reported and not to be passed over.
fn find(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    let file = file_name(name);
    folders
        .iter()
        .map(|folder| folder.join(&file))
        .find(|path| path.symlink_metadata().is_ok())
}

fn file_name(module: &str) -> String {
    format!("lib{module}_runtime.so")
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caller::Standing;
    use crate::config::UsersCeiling;

    #[test]
    fn strangers_have_opened_modules_and_operators_all() {
        let modules = Modules::new(&Config {
            opened_modules: vec!["open".to_owned()],
            ..Config::default()
        });
        let user = Standing::of_user(UsersCeiling::Write);
        let asked = |name, standing| modules.check_client(name, &Caller::of_user(1001, standing));
        asked("other", Standing::Operator).expect("an operator");
        asked("open", user).expect("it is open");
        let refused = asked("other", user).expect_err("it is not open");
        assert_eq!(refused.failure.status, Status::PermissionDenied);
        assert!(
            refused.message.contains("`--modules open,other`"),
            "{refused}"
        );
        let wrong = asked("Other", user).expect_err("it is no name");
        assert_eq!(wrong.failure.status, Status::InvalidArgument);
    }
}
