//! A file that appears under its name only when it is whole.

use std::fs::{File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::{ExportError, failed};

/// Writes `target`, beside which a file of another name grows meanwhile; one that is there is replaced.
///
/// Errors: that of `write`, and those of the file system; `target` is as it was then.
pub fn write_file<T>(
    target: &Path,
    write: impl FnOnce(&File) -> Result<T, ExportError>,
) -> Result<T, ExportError> {
    let (dir, named) = match target.canonicalize() {
        // What a link leads to is written, not the link.
        Ok(real) => (real.parent().unwrap_or(Path::new("/")).to_owned(), real),
        Err(_) => (target.parent().unwrap_or(Path::new("")).to_owned(), target.to_owned()),
    };
    let dir = if dir.as_os_str().is_empty() { Path::new(".") } else { &dir };
    let temporary = tempfile::Builder::new()
        .prefix(".vfsrun-export-")
        // Less the umask.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(dir)
        .map_err(failed("make a file in the directory of", target))?;
    let written = write(temporary.as_file())?;
    temporary.persist(&named).map_err(|error| failed("put in place", target)(error.error))?;
    Ok(written)
}
