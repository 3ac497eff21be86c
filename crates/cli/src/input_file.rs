//! Files that the command line names, and that are read whole.

use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use nix::fcntl::OFlag;

use crate::failure::CommandFailure;

/// Reads a regular file. Others are refused: they may have no end, or wait for ever for a writer. `what` says what the
/// file is for.
///
/// # Errors
/// It cannot be read, is not a regular file, or has more than `max_bytes`.
pub(crate) fn read_regular(
    path: &Path,
    what: &str,
    max_bytes: usize,
) -> Result<Vec<u8>, CommandFailure> {
    let failed = |error| {
        CommandFailure::system(format_args!("cannot read {what} {}", path.display()))(error)
    };
    let mut options = OpenOptions::new();
    let without_waiting = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits());
    let file = without_waiting.open(path).map_err(failed)?;
    if !file.metadata().map_err(failed)?.is_file() {
        return Err(CommandFailure::in_the_way(format!(
            "{what} {} is not a regular file: name one",
            path.display()
        )));
    }
    let mut bytes = Vec::new();
    // One more tells a file that is too long from one that just fits.
    file.take(max_bytes as u64 + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() > max_bytes {
        return Err(CommandFailure::usage(format!(
            "{what} {} has more than {max_bytes} bytes, which is the most",
            path.display()
        )));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_that_is_one_and_not_too_long() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, b"1234").expect("writes");
        assert_eq!(read_regular(&path, "the file", 4).expect("reads"), b"1234");
        for (path, most, words) in [
            (&*path, 3, "more than 3 bytes"),
            (Path::new("/dev/zero"), 4, "not a regular file"),
            (folder.path(), 4, "not a regular file"),
            (Path::new("/nowhere"), 4, "cannot read the file /nowhere"),
        ] {
            let failure = read_regular(path, "the file", most).expect_err("refused");
            assert!(failure.to_string().contains(words), "{failure}");
        }
    }
}
