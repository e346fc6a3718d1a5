//! Random changes of a directory, as programs make them. Tests of other crates include this file too.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

/// A generator that gives the same numbers for the same seed.
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % limit
    }

    pub fn one_of<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }
}

/// Such that changes often meet.
pub const NAMES: [&str; 4] = ["a", "b", "c", "hidden"];

/// One change that some program could make below `root`; what cannot be done is not done.
pub fn change_something(names: &[&str], root: &Path, random: &mut Random) {
    let some_path = |random: &mut Random| {
        let mut path = root.to_owned();
        for _ in 0..=random.below(3) {
            path.push(random.one_of(names));
        }
        path
    };
    let (path, other) = (some_path(random), some_path(random));
    let content = random.one_of(&["1", "2", "three", ""]);
    let _ = match random.below(14) {
        0 | 1 => fs::write(&path, content),
        // In place, with the size and mtime it had.
        2 | 3 => same_size_and_time(&path),
        4 => fs::write(root.join("hidden.tmp"), content)
            .and_then(|()| fs::rename(root.join("hidden.tmp"), &path)),
        5 => fs::remove_file(&path),
        6 => fs::remove_dir_all(&path),
        7 | 8 => fs::create_dir_all(&path),
        9 | 10 => fs::rename(&path, &other),
        11 => fs::hard_link(&path, &other),
        12 => symlink(random.one_of(&["a", "../b", "c/a", "none"]), &path),
        _ => fs::set_permissions(&path, fs::Permissions::from_mode(random.one_of(&[0o755, 0o775]))),
    };
}

fn same_size_and_time(path: &Path) -> std::io::Result<()> {
    let before = fs::symlink_metadata(path)?;
    if !before.is_file() {
        return Ok(());
    }
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(&vec![b'x'; before.len() as usize])?;
    file.set_modified(before.modified()?)
}
