//! The root's /etc/passwd: where a user of the container is at home. Whoever made the root made the file, so it may be anything.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, fstat};
use vfsrun_sys::beneath;

const PASSWD: &str = "etc/passwd";
/// More of the file is not read.
const MOST: u64 = 4 << 20;
/// Where a user is at home who has no entry, as with runc and crun.
const NOWHERE: &[u8] = b"/";

/// The home directory of a user, from the first entry with its number. What cannot be read has no entries.
///
/// Stage: workload, in the root, and before it takes the ids of its user, who may not be allowed to read the file.
pub fn home(uid: u32) -> Vec<u8> {
    let entries = open().map(|file| BufReader::new(file.take(MOST)));
    let home = entries.ok().and_then(|entries| home_in(entries, uid));
    home.unwrap_or_else(|| NOWHERE.to_vec())
}

/// Links are followed inside the root, but those of /proc, which lead to what this process has open. Only a file is opened: a
/// fifo would keep us, and a device may do something.
fn open() -> io::Result<File> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open("/", flags, Mode::empty())?;
    let path = Path::new(PASSWD);
    refuse_all_but_files(&beneath::open_in_root(&root, path, OFlags::PATH)?)?;
    // It may be another one by now.
    let file = beneath::open_in_root(&root, path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?;
    refuse_all_but_files(&file)?;
    Ok(file.into())
}

fn refuse_all_but_files(file: &OwnedFd) -> io::Result<()> {
    match FileType::from_raw_mode(fstat(file)?.st_mode) {
        FileType::RegularFile => Ok(()),
        _ => Err(io::ErrorKind::InvalidInput.into()),
    }
}

/// Lines as of passwd(5), `name:password:uid:gid:comment:home:shell`; others are left out.
fn home_in(entries: impl BufRead, uid: u32) -> Option<Vec<u8>> {
    let lines = entries.split(b'\n').map_while(Result::ok);
    lines.filter_map(|line| entry(&line)).find(|(number, _)| *number == uid).map(|(_, home)| home)
}

fn entry(line: &[u8]) -> Option<(u32, Vec<u8>)> {
    let fields: Vec<_> = line.split(|byte| *byte == b':').collect();
    let number = std::str::from_utf8(fields.get(2)?).ok()?.parse().ok()?;
    let home = fields.get(5)?;
    // The environment cannot have it otherwise.
    (!home.is_empty() && !home.contains(&0)).then(|| (number, home.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn home_of(text: &[u8], uid: u32) -> Option<String> {
        home_in(text, uid).map(|home| String::from_utf8(home).unwrap())
    }

    #[test]
    fn the_first_entry_of_a_number_counts() {
        let text = b"root:x:0:0:root:/root:/bin/sh\na:x:7:7::/a:\nb:x:7:7::/b:/bin/sh";
        assert_eq!(home_of(text, 0).as_deref(), Some("/root"));
        assert_eq!(home_of(text, 7).as_deref(), Some("/a"));
        assert_eq!(home_of(text, 8), None);
    }

    #[test]
    fn lines_that_are_no_entries_are_left_out() {
        let text = b"\n#a:x:7\n+\na:x:seven:7::/a:\na:x:-7:7::/a:\na:x:7\n:x:7:7:::\nb:x:7:7::/\0:\n\xff:x:7:7:\xff:/b";
        assert_eq!(home_of(text, 7).as_deref(), Some("/b"));
        assert_eq!(home_of(b"a:x:4294967303:7::/a:", 7), None);
    }

    #[test]
    fn no_more_than_so_much_is_read() {
        let endless = BufReader::new(io::repeat(b'x').take(MOST));
        assert_eq!(home_in(endless, 0), None);
    }
}
