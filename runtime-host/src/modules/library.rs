//! The library of a plugin: examined as bytes, and loaded from a copy of those very bytes.
//!
//! Laws:
//! - A library is examined before it is loaded, because loading runs its code, and because touching a
//!   truncated one kills the process: its ELF segments must lie in the file, and its module table must be of
//!   this host's version.
//! - Only root and this process's user could change what the path leads to ([`trusted_path`]); else it is refused, or
//!   warned of where no other user has to do with the process.
//! - What is loaded is what was examined: a sealed copy in memory. The file may be replaced, overwritten in place or
//!   truncated at any time, also while the module is in use; if the process had mapped the file, SIGBUS would kill it.
//! - A library stays loaded as long as the process lives: its code may be on any thread's stack, and its
//!   thread-locals outlive its containers. The same bytes are loaded once.
//!
//! A library does not find others that lie beside it (`$ORIGIN` in its run path): a copy in memory lies in no folder.

use std::ffi::c_void;
use std::io;
use std::path::{Path, PathBuf};
use std::ptr::NonNull;
use std::sync::Arc;

use chimaera_chimod::abi::{Header, MODULE_MAGIC, ModuleVTable, SYMBOL_PREFIX};
use chimaera_chimod::{Module, ModuleError};
use chimaera_proto::Status;
use chimaera_proto::module_name::{RULE, is_module_name};
use chimaera_proto::shown::brief;
use nix::errno::Errno;
use object::elf;
use object::read::elf::{ElfFile64, FileHeader, ProgramHeader, SectionHeader};
use object::{Object, ObjectSection, ObjectSymbol};

use crate::log;
use crate::trusted_path::{self, PathDistrust};

use super::library_file::{self, FileStamp, LibraryFile, MAX_LIBRARY_BYTES};
use super::loaded_library::{LoadError, LoadedLibrary, reason};

/// Loads the module of this name from a file. If others could change what the path leads to, it is refused, or with
/// `warns` the log says so. Blocks.
pub(crate) fn load(
    path: &Path,
    name: &str,
    warns: bool,
) -> Result<(Module, LibraryFile), ModuleError> {
    let refuse = |reason: String| {
        ModuleError::new(
            Status::ModuleIncompatible,
            format!("{}: {reason}", path.display()),
        )
    };
    let unreadable = |error: io::Error| {
        let mut failure =
            ModuleError::system(format_args!("cannot read {}", path.display()), &error);
        if error.kind() == io::ErrorKind::PermissionDenied && path.is_symlink() {
            failure.message += "; a daemon follows links to libraries only into folders that it was told of when it \
                                was started: name the one that this link leads to with --plugin-dir, too";
        }
        failure
    };
    if let Some(target) = dangling(path) {
        return Err(refuse(format!(
            "is a symbolic link to {}, which is not there: build the module, or remove the link",
            target.display()
        )));
    }
    // The way first: then nobody else puts another file there before it is opened.
    examine_trust(trusted_path::check_way(path), path, warns)?;
    let not_regular = || refuse("is not a regular file".to_owned());
    let library = library_file::open(path).map_err(|error| match error.raw_os_error() {
        // A socket, for example.
        Some(number) if number == Errno::ENXIO as i32 => not_regular(),
        _ => unreadable(error),
    })?;
    let file = library.metadata().map_err(unreadable)?;
    if !file.is_file() {
        return Err(not_regular());
    }
    examine_trust(trusted_path::check_file(path, &file), path, warns)?;
    let bytes = library_file::read(&library).map_err(unreadable)?;
    let bytes = bytes.ok_or_else(|| {
        refuse(format!(
            "is too large: it has {} bytes, and a library may have {MAX_LIBRARY_BYTES}: build it without debug \
             information, or strip it",
            file.len()
        ))
    })?;
    examine(&bytes, name).map_err(refuse)?;
    let loaded = LoadedLibrary::of(&bytes, name).map_err(|error| match error {
        LoadError::Copy(error) => ModuleError::system(
            format_args!("cannot copy {} into memory", path.display()),
            &error,
        ),
        LoadError::Refused(reason) => refuse(reason),
    })?;
    let symbol = format!("{SYMBOL_PREFIX}{name}\0");
    // SAFETY: the symbol is data; its address is all that is taken.
    let address = unsafe {
        loaded
            .library
            .get::<*mut c_void>(symbol.as_bytes())
            .map(libloading::os::unix::Symbol::into_raw)
    };
    let table =
        address.map_err(|error| refuse(format!("has no module table: {}", reason(&error))))?;
    let table =
        NonNull::new(table).ok_or_else(|| refuse("has an empty module table".to_owned()))?;
    // SAFETY: `examine` found a table of this version and size under this symbol, and what is loaded
    // is what it saw.
    let module = unsafe { Module::loaded(table, Arc::clone(&loaded) as _) }
        .map_err(|error| refuse(error.to_string()))?;
    if module.name() != name {
        return Err(refuse(is_another(module.name(), name)));
    }
    let file = LibraryFile::new(path, loaded, FileStamp::of(&file));
    Ok((module, file))
}

/// Refuses a library that others could change, or with `warns` has the log say so.
fn examine_trust(
    found: Result<(), PathDistrust>,
    path: &Path,
    warns: bool,
) -> Result<(), ModuleError> {
    let text = match found {
        Ok(()) => return Ok(()),
        Err(PathDistrust::Unknown(place, error)) => {
            let action = format_args!("cannot examine {}", place.display());
            return Err(ModuleError::system(action, &error));
        }
        Err(PathDistrust::Open(open)) => format!(
            "{}: its code runs with this runtime's rights, and others can change it: {open}",
            path.display()
        ),
    };
    if warns {
        log::warning(text);
        return Ok(());
    }
    Err(ModuleError::new(Status::PermissionDenied, text))
}

/// The target of a symbolic link whose target does not exist.
fn dangling(path: &Path) -> Option<PathBuf> {
    let is_missing = |error: io::Error| error.kind() == io::ErrorKind::NotFound;
    let target = std::fs::read_link(path).ok()?;
    std::fs::metadata(path)
        .is_err_and(is_missing)
        .then_some(target)
}

/// What is wrong with a library whose module has another name.
fn is_another(module: &str, name: &str) -> String {
    match is_module_name(module) {
        true => format!(
            "is the module {module}, not {name}: ask for the module {module}, from a file named \
             lib{module}_runtime.so"
        ),
        false => format!(
            "is a module that calls itself \"{}\", not {name}: {RULE}",
            brief(module)
        ),
    }
}

/// Checks that the file can be loaded, and that it exports a table which this host can use as the module `name`.
fn examine(bytes: &[u8], name: &str) -> Result<(), String> {
    let file = ElfFile64::<object::Endianness>::parse(bytes)
        .map_err(|error| {
        format!("is not a complete library of this kind of machine: {error}: build it again, or copy it again")
    })?;
    check_machine(&file)?;
    check_ranges(&file, bytes.len() as u64)?;
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
            "is for another kind of machine (ELF machine {machine:?}): build it for this one"
        ));
    }
    Ok(())
}

/// Checks that the ELF segments and sections lie within the file: touching a segment beyond its end would kill the
/// process.
fn check_ranges(file: &ElfFile64<'_>, len: u64) -> Result<(), String> {
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
                "is truncated: it has {len} bytes, and refers to byte {}: build it again, or copy it again",
                offset.saturating_add(size)
            ));
        }
    }
    Ok(())
}

/// The most modules of one library that an error names.
const MAX_SHOWN_MODULES: usize = 4;

fn not_exported(file: &ElfFile64<'_>, name: &str) -> String {
    let modules = file
        .dynamic_symbols()
        .filter(ObjectSymbol::is_definition)
        .filter_map(|symbol| {
            symbol
                .name()
                .ok()
                .and_then(|name| name.strip_prefix(SYMBOL_PREFIX))
        });
    let modules = modules.filter(|name| is_module_name(name));
    let modules: Vec<_> = modules.take(MAX_SHOWN_MODULES).collect();
    if modules.is_empty() {
        format!(
            "is not a ChiMod: it exports no {SYMBOL_PREFIX}{name}, which `export_chimod!` makes in a crate of type \
             cdylib"
        )
    } else {
        let modules = modules.join(", ");
        format!(
            "exports the module {modules}, not {name}: ask for the module {modules}, from a file named \
             lib{modules}_runtime.so"
        )
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

    /// A library with a module table of this version, which calls a function that does not exist.
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
        let file = folder.path().join("libincomplete_runtime.so");
        let error = load(&file, "incomplete", false).expect_err("is refused");
        assert_eq!(error.failure.status, Status::ModuleIncompatible);
        assert!(
            error.message.contains("undefined symbol: missing"),
            "{error}"
        );
    }
}
