//! Files that the command line names, and that are written.

use std::io::Write;
use std::path::Path;

use chimaera_bdev_file::open_output;

use crate::failure::CommandFailure;

/// Writes a text to a file that is made, or made empty first. It follows no link that somebody else may have put there.
///
/// # Errors
/// Such a link is on the way, the file is somebody else's in a folder where everybody can make files, or it cannot be
/// written.
pub(crate) fn write_output(path: &Path, text: &str) -> Result<(), CommandFailure> {
    let mut file = open_output(path)?;
    let written = file.write_all(text.as_bytes());
    written.map_err(CommandFailure::system(format_args!(
        "cannot write {}",
        path.display()
    )))
}
