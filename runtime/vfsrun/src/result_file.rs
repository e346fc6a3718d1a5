//! The result file: written so that a reader sees all of it or nothing.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Mode, OFlags};

/// Replaces a regular file by rename. What is anything else (a pipe, a link, /dev/stdout) is written to, never replaced; of
/// what was in a file that a link leads to nothing stays.
pub fn write(path: &Path, text: &str) -> io::Result<()> {
    let is_special = path.symlink_metadata().is_ok_and(|metadata| !metadata.is_file());
    if is_special {
        return OpenOptions::new().write(true).truncate(true).open(path)?.write_all(text.as_bytes());
    }
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    if write_nameless(path, text).is_ok() {
        return Ok(());
    }
    // There is a file to be replaced, or this file system has none without a name.
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    // A file or link of that name is somebody else's.
    let file = File::create_new(&temporary)?;
    let written = write_and_rename(file, &temporary, path, text);
    if written.is_err() {
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

/// Whoever is killed meanwhile leaves nothing. Errors: there is something already, or the file system has no such files.
fn write_nameless(path: &Path, text: &str) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(rustix::fs::open(parent, flags, Mode::from_raw_mode(0o666))?);
    file.write_all(text.as_bytes())?;
    let own = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(rustix::fs::linkat(CWD, own, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

fn write_and_rename(mut file: File, temporary: &Path, path: &Path, text: &str) -> io::Result<()> {
    file.write_all(text.as_bytes())?;
    std::fs::rename(temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_regular_file_is_replaced_whole() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("result.json");
        std::fs::write(&path, "a longer text that was there before").unwrap();
        write(&path, "new").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(std::fs::read_dir(temp.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_link_is_written_through_and_stays() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), "a longer text that was there before").unwrap();
        std::os::unix::fs::symlink("file", temp.path().join("link")).unwrap();
        write(&temp.path().join("link"), "text").unwrap();
        assert!(temp.path().join("link").is_symlink());
        assert_eq!(std::fs::read_to_string(temp.path().join("file")).unwrap(), "text");
    }
}
