//! Which paths modules may open that clients name.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use chimaera_chimod::{AllowedFolder, AllowedPaths};
use chimaera_fork::Private;
use nix::fcntl::OFlag;

use crate::config::Config;
use crate::error::HostError;

/// Folders beneath which modules may open paths, held open since the host started: what becomes of their own paths
/// means nothing.
#[derive(Debug)]
pub(crate) struct AllowedFolders {
    any: bool,
    folders: Vec<(PathBuf, Private<File>)>,
}

impl AllowedFolders {
    /// Opens the folders that a configuration names.
    ///
    /// # Errors
    /// One of them is none, or cannot be reached.
    pub(crate) fn open(config: &Config) -> Result<Self, HostError> {
        let open = |path: &PathBuf| {
            let failed = |error| HostError::AllowedPath {
                path: path.clone(),
                error,
            };
            let absolute = std::path::absolute(path).map_err(failed)?;
            let folder = Private::new(|| open_folder(&absolute)).map_err(failed)?;
            Ok((absolute, folder))
        };
        Ok(Self {
            any: config.opens_any_path(),
            folders: config
                .allow_paths
                .iter()
                .map(open)
                .collect::<Result<_, _>>()?,
        })
    }

    /// The folders, as modules get them.
    pub(crate) fn folders(&self) -> Vec<AllowedFolder<'_>> {
        let folders = self.folders.iter();
        folders
            .map(|(path, folder)| AllowedFolder {
                path,
                folder: folder.as_fd(),
            })
            .collect()
    }

    /// What modules may open, where the folders are these.
    pub(crate) fn of<'a>(&self, folders: &'a [AllowedFolder<'a>]) -> AllowedPaths<'a> {
        match self.any {
            true => AllowedPaths::Any,
            false => AllowedPaths::Beneath(folders),
        }
    }
}

fn open_folder(path: &Path) -> std::io::Result<File> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
    File::options()
        .read(true)
        .custom_flags(flags.bits())
        .open(path)
}
