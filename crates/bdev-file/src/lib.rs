//! Opens the file or block device of a bdev pool, in the process that may: the client's, or the daemon's.
//!
//! Laws:
//! - Nothing but regular files and block devices is opened at all: to open a terminal or a tape has effects of its own.
//!   What a path leads to is looked at, and just that is opened: the path is not followed twice.
//! - A file is made only under a name that nothing has, and never through a link: whoever made the link would choose
//!   where.
//! - What writes without a daemon follows no link that somebody else may have put in the way.
//! - A file that was made is removed only by the descriptor of its folder, and only if its name still leads to it.
//!   Others find it by its name as soon as it is made: it is removed only by whoever has it locked, and has seen that
//!   nobody has made anything of it.

#![forbid(unsafe_code)]

mod found;
mod links;
mod made;
mod node;
mod open;
mod path;
mod reach;
#[cfg(test)]
mod tests;

use std::path::Path;

use chimaera_proto::{ModuleError, Status};

pub use found::{FoundFile, check_not_planted, open_output};
pub use made::MadeFile;
pub use open::{FileKind, HowToOpen, OpenedPath, kind_of, open};
pub use path::{PathUse, check_stores, ends_with_slash, refused, refused_open};
pub use reach::Reach;

/// The error that a file is in use, for this reason.
#[must_use]
pub fn busy(path: &Path, cause: &str) -> ModuleError {
    ModuleError::new(
        Status::Busy,
        format!(
            "{} is in use: {cause}; use another file, or end its other use",
            path.display()
        ),
    )
}
