//! Paths, as pools are named by them.

use std::borrow::Cow;
use std::path::Path;

/// A path that means the same to the daemon, whose working folder is another.
pub(crate) fn absolute(path: &str) -> std::io::Result<Cow<'_, str>> {
    // The daemon refuses an empty one.
    if path.is_empty() || Path::new(path).is_absolute() {
        return Ok(path.into());
    }
    let whole = std::path::absolute(path)?.into_os_string().into_string();
    let whole =
        whole.map_err(|_| std::io::Error::other("the working folder's path is not UTF-8"))?;
    Ok(whole.into())
}
