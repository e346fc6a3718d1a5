//! A proc file system, proven to be the kernel's own: a write there must reach the file that it names, whatever a hostile root
//! has put at /proc (CVE-2019-16884, CVE-2019-19921, CVE-2025-52881).

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, fstat, fstatfs, openat2};

#[derive(Debug)]
pub struct Procfs(OwnedFd);

impl Procfs {
    /// `directory` is the root of one, or it is an error (EXDEV).
    pub fn of(directory: OwnedFd) -> io::Result<Procfs> {
        // No other file of it has this number.
        const ROOT_INODE: u64 = 1;
        let is_one =
            fstatfs(&directory)?.f_type == PROC_SUPER_MAGIC && fstat(&directory)?.st_ino == ROOT_INODE;
        if is_one { Ok(Procfs(directory)) } else { Err(rustix::io::Errno::XDEV.into()) }
    }

    /// The one of this mount namespace.
    pub fn own() -> io::Result<Procfs> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Procfs::of(rustix::fs::open("/proc", flags, Mode::empty())?)
    }

    /// Writes a file of it in one go. Errors: EXDEV where something is mounted on the way.
    pub fn write(&self, path: &Path, text: &[u8]) -> io::Result<()> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_MAGICLINKS;
        let flags = OFlags::WRONLY | OFlags::CLOEXEC;
        let file = openat2(self.0.as_fd(), path, flags, Mode::empty(), resolve)?;
        rustix::io::write(&file, text)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(path: &Path) -> OwnedFd {
        std::fs::File::open(path).expect("open a directory").into()
    }

    #[test]
    fn only_the_root_of_a_proc_file_system_is_one() {
        Procfs::of(directory(Path::new("/proc"))).expect("it is");
        for other in ["/proc/self", "/proc/sys", "/tmp"] {
            Procfs::of(directory(Path::new(other))).expect_err(other);
        }
    }

    #[test]
    fn own_files_are_reached_and_links_of_the_kernel_are_not() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), "before").unwrap();
        let file = std::fs::File::options().write(true).open(temp.path().join("file")).unwrap();
        let procfs = Procfs::own().unwrap();
        procfs.write(Path::new("thread-self/comm"), b"renamed").unwrap();
        let comm = std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        assert_eq!(comm, "renamed\n");
        let link = format!("thread-self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&file));
        procfs.write(Path::new(&link), b"after").expect_err("a magic link");
        procfs.write(Path::new("../tmp"), b"").expect_err("outside");
        assert_eq!(std::fs::read_to_string(temp.path().join("file")).unwrap(), "before");
    }
}
