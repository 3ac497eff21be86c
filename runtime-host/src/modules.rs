//! Modules by name: linked into the program, or loaded from plugin folders.
//!
//! A library is examined as a file before it is loaded, because loading runs code of it, and
//! because loading a truncated file kills the process: its segments must lie in the file, and
//! its module table must be of this host's version. A module stays loaded as long as the process
//! lives: its code may be on any thread's stack, and its thread-locals outlive its containers.

use std::collections::HashMap;
use std::ffi::c_void;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

use chimaera_chimod::abi::{Header, MODULE_MAGIC, ModuleVTable, SYMBOL_PREFIX};
use chimaera_chimod::{Module, ModuleError};
use chimaera_proto::Status;
use chimaera_proto::limits::MAX_MODULE_NAME_BYTES;
use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use object::elf;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, SectionHeader};
use object::{Object, ObjectSection, ObjectSymbol};
use parking_lot::Mutex;

/// Environment variable with further plugin folders, separated by colons.
const FOLDERS_VARIABLE: &str = "CHIMAERA_PLUGIN_PATH";

/// The modules that a host can use.
#[derive(Debug)]
pub(crate) struct Modules {
    folders: Vec<PathBuf>,
    known: Mutex<HashMap<String, Module>>,
}

impl Modules {
    /// `linked` come before any file; `folders` before those of the environment and beside the
    /// program.
    pub(crate) fn new(linked: &[Module], folders: &[PathBuf]) -> Self {
        let mut all = folders.to_vec();
        if let Some(value) = std::env::var_os(FOLDERS_VARIABLE) {
            all.extend(std::env::split_paths(&value).filter(|path| !path.as_os_str().is_empty()));
        }
        if let Some(beside) = std::env::current_exe()
            .ok()
            .and_then(|program| program.parent().map(Path::to_path_buf))
        {
            // An installed program's libraries lie in `../lib/chimaera`, a built one's beside it.
            all.push(beside.join("../lib/chimaera"));
            all.push(beside);
        }
        let known = linked
            .iter()
            .map(|module| (module.name().to_owned(), module.clone()));
        Self {
            folders: all,
            known: Mutex::new(known.collect()),
        }
    }

    /// Names of the modules in memory.
    pub(crate) fn loaded_names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.known.lock().keys().cloned().collect();
        names.sort();
        names
    }

    /// The module with this name, loaded if it is not yet. Blocks.
    pub(crate) fn get(&self, name: &str) -> Result<Module, ModuleError> {
        check_name(name)?;
        // The lock is kept while loading: two requests for one module load it once.
        let mut known = self.known.lock();
        if let Some(module) = known.get(name) {
            return Ok(module.clone());
        }
        let module = load(&self.find(name)?, name)?;
        tracing::info!(module = name, version = module.version(), "module loaded");
        known.insert(name.to_owned(), module.clone());
        Ok(module)
    }

    fn find(&self, name: &str) -> Result<PathBuf, ModuleError> {
        let file = format!("lib{name}_runtime.so");
        let found = self
            .folders
            .iter()
            .map(|folder| folder.join(&file))
            .find(|path| path.exists());
        found.ok_or_else(|| {
            let folders: Vec<_> = self
                .folders
                .iter()
                .map(|f| f.display().to_string())
                .collect();
            ModuleError::new(
                Status::ModuleNotFound,
                format!(
                    "module {name}: no {file} in {}: build or install the plugin, or name its \
                     folder with --plugin-dir or {FOLDERS_VARIABLE}",
                    folders.join(", ")
                ),
            )
        })
    }
}

/// A module name comes from clients: it is a bare word, never a path.
fn check_name(name: &str) -> Result<(), ModuleError> {
    let word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
    if !name.is_empty() && name.len() <= MAX_MODULE_NAME_BYTES && name.bytes().all(word) {
        return Ok(());
    }
    Err(ModuleError::new(
        Status::InvalidArgument,
        format!(
            "\"{}\" is not a module name: up to {MAX_MODULE_NAME_BYTES} lowercase letters, digits \
             and underscores",
            name.escape_default()
        ),
    ))
}

fn load(path: &Path, name: &str) -> Result<Module, ModuleError> {
    let refuse = |reason: String| {
        ModuleError::new(
            Status::ModuleIncompatible,
            format!("{}: {reason}", path.display()),
        )
    };
    let unreadable =
        |error| ModuleError::system(format_args!("cannot read {}", path.display()), &error);
    // In full, for the loader looks for a bare file name in folders of its own.
    let path = &std::path::absolute(path).map_err(unreadable)?;
    // Reading anything else, a pipe for example, might never end.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(refuse("is not a regular file".to_owned()));
    }
    let bytes = std::fs::read(path).map_err(unreadable)?;
    examine(&bytes, name).map_err(refuse)?;
    // SAFETY: loading runs the library's initialisers, and using it runs its code. The operator
    // put it into a plugin folder and so trusts it; what can go wrong by accident (truncation,
    // another program's library, another version) was ruled out by `examine`.
    // What it lacks is found missing now: with lazy binding the first call would end the process.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) }
        .map_err(|error| refuse(format!("cannot be loaded: {}", reason(&error))))?;
    let symbol = format!("{SYMBOL_PREFIX}{name}\0");
    // SAFETY: the symbol is data; its address is all that is taken.
    let address = unsafe {
        library
            .get::<*mut c_void>(symbol.as_bytes())
            .map(libloading::os::unix::Symbol::into_raw)
    };
    let table =
        address.map_err(|error| refuse(format!("has no module table: {}", reason(&error))))?;
    let table =
        NonNull::new(table).ok_or_else(|| refuse("has an empty module table".to_owned()))?;
    // Never unloaded; see the module's documentation.
    let library = Arc::new(std::mem::ManuallyDrop::new(library));
    // SAFETY: `examine` found a table of this version and size under this symbol.
    let module =
        unsafe { Module::loaded(table, library) }.map_err(|error| refuse(error.to_string()))?;
    if module.name() != name {
        return Err(refuse(format!(
            "is the module {}, not {name}",
            module.name()
        )));
    }
    Ok(module)
}

/// What the loader says. The error by itself says only which of its functions failed.
fn reason(error: &libloading::Error) -> String {
    let source = std::error::Error::source(error);
    source.map_or_else(|| error.to_string(), ToString::to_string)
}

/// Whether the file can be loaded, and exports a table that this host can use as `name`.
fn examine(bytes: &[u8], name: &str) -> Result<(), String> {
    let file = ElfFile64::<object::Endianness>::parse(bytes)
        .map_err(|error| format!("is not a complete library of this kind of machine: {error}"))?;
    check_machine(&file)?;
    check_extents(&file, bytes.len() as u64)?;
    let wanted = format!("{SYMBOL_PREFIX}{name}");
    let exported = |symbol: &object::read::elf::ElfSymbol64<'_, '_>| symbol.is_definition();
    let symbol = file
        .dynamic_symbols()
        .filter(exported)
        .find(|symbol| symbol.name() == Ok(&wanted))
        .ok_or_else(|| not_exported(&file, name))?;
    if (symbol.size() as usize) < size_of::<Header>() {
        return Err("its module table is too small to be one".to_owned());
    }
    let header = file
        .sections()
        .find_map(|section| {
            let data = section.data_range(symbol.address(), size_of::<Header>() as u64);
            data.ok().flatten()
        })
        .ok_or("its module table lies outside the file")?;
    let header = read_header(header);
    header
        .check::<ModuleVTable>(MODULE_MAGIC)
        .map_err(|error| error.to_string())?;
    if (symbol.size() as usize) < size_of::<ModuleVTable>() {
        return Err("its module table is shorter than it claims".to_owned());
    }
    Ok(())
}

fn check_machine(file: &ElfFile64<'_>) -> Result<(), String> {
    let header = file.elf_header();
    let endian = file.endian();
    if header.e_type(endian) != elf::ET_DYN {
        return Err("is not a shared library".to_owned());
    }
    let machine = header.e_machine(endian);
    let own = if cfg!(target_arch = "x86_64") {
        elf::EM_X86_64
    } else {
        elf::EM_AARCH64
    };
    if machine != own {
        return Err(format!(
            "is for another kind of machine (ELF machine {machine:?})"
        ));
    }
    Ok(())
}

/// Touching a segment that lies beyond the end of its file kills the process.
fn check_extents(file: &ElfFile64<'_>, len: u64) -> Result<(), String> {
    let endian = file.endian();
    let header = file.elf_header();
    let data = file.data();
    let segments = header
        .program_headers(endian, data)
        .map_err(|error| error.to_string())?;
    let sections = header
        .section_headers(endian, data)
        .map_err(|error| error.to_string())?;
    let loaded = segments.iter().map(|segment| segment.file_range(endian));
    let described = sections
        .iter()
        .filter_map(|section| section.file_range(endian));
    for (offset, size) in loaded.chain(described) {
        if offset.checked_add(size).is_none_or(|end| end > len) {
            return Err(format!(
                "is truncated: it has {len} bytes, and refers to byte {}",
                offset.saturating_add(size)
            ));
        }
    }
    Ok(())
}

fn not_exported(file: &ElfFile64<'_>, name: &str) -> String {
    let modules: Vec<_> = file
        .dynamic_symbols()
        .filter(ObjectSymbol::is_definition)
        .filter_map(|symbol| {
            symbol
                .name()
                .ok()
                .and_then(|name| name.strip_prefix(SYMBOL_PREFIX))
        })
        .collect();
    if modules.is_empty() {
        format!("is not a ChiMod: it exports no {SYMBOL_PREFIX}{name}")
    } else {
        format!("exports the module {}, not {name}", modules.join(", "))
    }
}

fn read_header(bytes: &[u8]) -> Header {
    let word = |at: usize| u32::from_ne_bytes(std::array::from_fn(|byte| bytes[at + byte]));
    Header {
        magic: u64::from(word(0)) | u64::from(word(4)) << 32,
        abi_version: word(8),
        size: word(12),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chimaera_chimod::abi::ABI_VERSION;
    use std::process::Command;

    /// A library with a module table of this version, which calls a function that nobody has.
    fn incomplete_library(folder: &Path) {
        let source = folder.join("incomplete.c");
        let text = format!(
            "extern void missing(void);\n\
             static void entry(void) {{ missing(); }}\n\
             struct {{ unsigned long magic; unsigned version, size; void *rest[{rest}]; }}\n\
             CHIMAERA_CHIMOD_incomplete = {{ {MODULE_MAGIC}ul, {ABI_VERSION}, {size}, \
             {{ \"incomplete\", (void *)10, \"1\", (void *)1, entry }} }};\n",
            size = size_of::<ModuleVTable>(),
            rest = (size_of::<ModuleVTable>() - size_of::<Header>()) / size_of::<usize>(),
        );
        std::fs::write(&source, text).expect("writes");
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-Wl,-z,lazy", "-o"])
            .arg(folder.join("libincomplete_runtime.so"))
            .arg(&source)
            .status();
        assert!(compiled.expect("there is a C compiler").success());
    }

    #[test]
    fn a_library_that_lacks_a_function_is_refused_rather_than_called() {
        let folder = tempfile::tempdir().expect("folder");
        incomplete_library(folder.path());
        let modules = Modules::new(&[], &[folder.path().to_owned()]);
        let error = modules.get("incomplete").expect_err("is refused");
        assert_eq!(error.failure.status, Status::ModuleIncompatible);
        assert!(
            error.message.contains("undefined symbol: missing"),
            "{error}"
        );
    }
}
