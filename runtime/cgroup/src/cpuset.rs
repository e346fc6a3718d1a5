//! cpuset of version 1: a new cgroup has no processors and no memory, and nothing can run in it before it has.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::files;

/// Gives the cgroup at `path`, and those above it that have none, what the one above has.
pub(crate) fn fill(mount: impl AsFd, path: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        filled(&mount, path, file)?;
    }
    Ok(())
}

fn filled(mount: &impl AsFd, path: &Path, file: &str) -> io::Result<String> {
    let own = path.join(file);
    let own = own.to_str().ok_or(io::ErrorKind::InvalidInput)?;
    let text = files::read(mount, own)?;
    match path.parent() {
        Some(above) if text.trim().is_empty() => {
            let text = filled(mount, above, file)?;
            files::write(mount, own, &text)?;
            Ok(text)
        }
        _ => Ok(text),
    }
}
