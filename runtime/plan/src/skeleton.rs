//! The skeleton: the lowest segment, with the names that every root needs: mount points, the working directory, and
//! small files of /etc that a layer's own take the place of.

use std::path::{Component, Path, PathBuf};

use vfsrun_union::describe::{BranchSpec, SegmentSpec, SkeletonContent, SkeletonEntry, Source};

use vfsrun_spec::{Vfs, vfs};

use crate::Facts;
use crate::facts::PathKind;
use crate::plan::{Command, Mount, MountKind, Segment};

pub(crate) fn segment(
    whole: &SegmentSpec,
    vfs: &Vfs,
    is_container: bool,
    facts: &Facts,
    mounts: &[Mount],
    command: &Command,
) -> Segment {
    // A container has the accounts of its image, or none.
    let mut entries = if is_container { Vec::new() } else { account_files(command) };
    entries.extend(mounts.iter().map(|mount| mount_point(mount, facts)));
    let own = (command.uid, command.gid);
    entries.push(directory(&command.cwd, own));
    // A place that is written must be there: Landlock has no rule for a path that does not exist.
    entries.extend(written(vfs).map(|path| directory(path, own)));
    entries.retain(|entry| !entry.path.as_os_str().is_empty());
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    entries.dedup_by(|a, b| a.path == b.path);
    let branch = BranchSpec { frozen: true, ..BranchSpec::new(Source::Skeleton { entries }, "the skeleton") };
    // The view's rules are about the user's branches; a mount point must stay.
    let spec = SegmentSpec { branches: vec![branch], rules: Vec::new(), ..whole.clone() };
    Segment { spec, opens: Vec::new() }
}

/// Directories that the spec names to be captured or written; one without a `/` at its end may be a file.
fn written(vfs: &Vfs) -> impl Iterator<Item = &Path> {
    let captured = match &vfs.capture {
        vfs::Capture::Layer(layer) => layer.only.as_deref().unwrap_or_default(),
        vfs::Capture::Discard => &[],
    };
    let allowed = match &vfs.landlock {
        vfs::Landlock::Rules(rules) => Some(rules),
        vfs::Landlock::Off => None,
    };
    let by_place = allowed.into_iter().flat_map(|rules| rules.write.iter().flatten());
    let by_right = allowed.into_iter().flat_map(|rules| rules.path_beneath.iter().flatten());
    captured
        .iter()
        .chain(by_place)
        .chain(by_right.flat_map(|rule| &rule.parent))
        .map(PathBuf::as_path)
        .filter(|path| path.as_os_str().as_encoded_bytes().ends_with(b"/"))
}

pub(crate) fn links(links: &[(PathBuf, PathBuf)]) -> Vec<SkeletonEntry> {
    let entry = |(path, target): &(PathBuf, PathBuf)| SkeletonEntry {
        path: relative(path),
        mode: 0o777,
        owner: (0, 0),
        content: SkeletonContent::Symlink(target.clone()),
    };
    links.iter().map(entry).collect()
}

fn mount_point(mount: &Mount, facts: &Facts) -> SkeletonEntry {
    let is_file = match &mount.what {
        MountKind::Bind { source, .. } => facts.paths.get(source) == Some(&PathKind::File),
        _ => false,
    };
    if is_file { file(&mount.destination, String::new()) } else { directory(&mount.destination, (0, 0)) }
}

fn account_files(command: &Command) -> Vec<SkeletonEntry> {
    let home = command.env.iter().find_map(|entry| entry.strip_prefix("HOME=")).unwrap_or("/");
    let (uid, gid) = (command.uid, command.gid);
    let mut passwd = "root:x:0:0:root:/root:/bin/sh\n".to_owned();
    let mut group = "root:x:0:\ntty:x:5:\n".to_owned();
    if uid != 0 && uid != 65_534 {
        passwd.push_str(&format!("user:x:{uid}:{gid}::{home}:/bin/sh\n"));
    }
    if ![0, 5, 65_534].contains(&gid) {
        group.push_str(&format!("user:x:{gid}:\n"));
    }
    passwd.push_str("nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n");
    group.push_str("nogroup:x:65534:\n");
    vec![
        file(Path::new("/etc/passwd"), passwd),
        file(Path::new("/etc/group"), group),
        file(Path::new("/etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n".to_owned()),
    ]
}

fn directory(path: &Path, owner: (u32, u32)) -> SkeletonEntry {
    SkeletonEntry { path: relative(path), mode: 0o755, owner, content: SkeletonContent::Directory }
}

fn file(path: &Path, text: String) -> SkeletonEntry {
    SkeletonEntry { path: relative(path), mode: 0o644, owner: (0, 0), content: SkeletonContent::File(text) }
}

fn relative(path: &Path) -> PathBuf {
    path.components().filter(|component| matches!(component, Component::Normal(_))).collect()
}
