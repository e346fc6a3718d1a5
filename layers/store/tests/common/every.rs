//! A layer with one of everything that is hard to write down.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use vfsrun_layers::{Digest, Entry, Kind, LayerStore, Manifest, Meta};

/// Names that are long, no text, or would be taken for something else.
pub fn names() -> Vec<Vec<u8>> {
    vec![
        b"a\nb".to_vec(),
        b"back\\slash".to_vec(),
        b"equals=sign # and space".to_vec(),
        b"no text \xFF\xFE".to_vec(),
        "häuser".as_bytes().to_vec(),
        vec![b'n'; 99],
        vec![b'n'; 100],
        vec![b'n'; 101],
        vec![b'n'; 255],
        "ä".repeat(127).into_bytes(),
    ]
}

/// Files, links, directories, fifos and devices with such names and odd metadata, their contents in `store`.
/// No whiteouts; see [`with_whiteouts`].
pub fn layer(store: &LayerStore) -> Manifest {
    let mut entries = vec![entry("", directory(), Meta { mode: 0o711, mtime: (1, 0), ..Meta::default() })];
    for dir in ["names", "deep", "z"] {
        entries.push(entry(dir, directory(), Meta { mode: 0o2755, ..Meta::default() }));
    }
    for (index, name) in names().into_iter().enumerate() {
        let path = PathBuf::from("names").join(OsStr::from_bytes(&name));
        entries.push(entry(path.clone(), stored(store, &name), metas()[index % metas().len()].clone()));
        let link = Kind::HardLink { to: path.clone() };
        entries.push(entry(format!("z/hard{index}"), link, Meta::default()));
        let target = OsString::from(&path);
        entries.push(entry(format!("z/soft{index}"), Kind::Symlink { target }, meta(0o777)));
    }
    let mut deep = PathBuf::from("deep");
    for _ in 0..12 {
        deep.push("d".repeat(200));
        entries.push(entry(deep.clone(), directory(), meta(0o700)));
    }
    entries.push(entry(deep.join("file"), stored(store, b"at the bottom"), meta(0o600)));
    for size in [0, 1, 511, 512, 513, 1 << 20, (3 << 20) + 7] {
        let content: Vec<u8> =
            (0..size).map(|at: u32| (at.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
        entries.push(entry(format!("size{size}"), stored(store, &content), meta(0o644)));
    }
    entries.push(entry("fifo", Kind::Fifo, Meta { uid: 5, ..meta(0o640) }));
    entries.push(entry("block", Kind::Device { block: true, major: 7, minor: 1_048_575 }, meta(0o660)));
    entries.push(entry("char", Kind::Device { block: false, major: 1, minor: 3 }, meta(0o666)));
    Manifest::from_entries(entries).unwrap()
}

/// Whiteouts and opaque directories besides.
pub fn with_whiteouts(store: &LayerStore) -> Manifest {
    let mut entries = layer(store).entries;
    for (path, opaque) in [("opaque", true), ("opaque/in", true), ("plain", false)] {
        entries.push(entry(path, Kind::Directory { opaque }, meta(0o755)));
    }
    for name in names() {
        let path = PathBuf::from("plain").join(OsStr::from_bytes(&name));
        entries.push(entry(path, Kind::Whiteout, Meta::default()));
    }
    entries.push(entry("gone", Kind::Whiteout, Meta::default()));
    Manifest::from_entries(entries).unwrap()
}

/// Owners, modes, times and attributes, as root may set them.
fn metas() -> Vec<Meta> {
    let mut capability = meta(0o4755);
    // cap_net_raw=ep.
    let bytes = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0".to_vec();
    capability.xattrs.insert("security.capability".into(), bytes);
    let mut attributes = meta(0o640);
    attributes.xattrs.insert("user.binary".into(), b"\n9 a=b\n\0\xFF=".to_vec());
    attributes.xattrs.insert("user.empty".into(), Vec::new());
    attributes.xattrs.insert("user.ä".into(), b"x".to_vec());
    let mut acl = meta(0o664);
    // Version 2; user::rw- group 10:r-- (a newline) group::rw- mask::rw- other::r--.
    let bytes = b"\x02\0\0\0\x01\0\x06\0\xFF\xFF\xFF\xFF\x04\0\x06\0\xFF\xFF\xFF\xFF\x08\0\x04\0\n\0\0\0\x10\0\x06\0\xFF\xFF\xFF\xFF\x20\0\x04\0\xFF\xFF\xFF\xFF";
    acl.xattrs.insert("system.posix_acl_access".into(), bytes.to_vec());
    let at = |seconds, nanoseconds| Meta { mtime: (seconds, nanoseconds), ..meta(0o644) };
    vec![
        capability,
        attributes,
        acl,
        at(1_700_000_000, 123_456_789),
        at(-1, 500_000_000),
        at(-86_400, 0),
        at(9_000_000_000, 1),
        Meta { uid: 2_097_151, gid: 2_097_152, ..meta(0o1777) },
        Meta { uid: u32::MAX - 1, gid: 65_534, ..meta(0) },
    ]
}

fn meta(mode: u32) -> Meta {
    Meta { mode, mtime: (1_000_000_000, 0), ..Meta::default() }
}

fn entry(path: impl Into<PathBuf>, kind: Kind, meta: Meta) -> Entry {
    Entry { path: path.into(), kind, meta }
}

fn directory() -> Kind {
    Kind::Directory { opaque: false }
}

fn stored(store: &LayerStore, content: &[u8]) -> Kind {
    store.put_blob(content).unwrap();
    Kind::File { digest: Digest::of(content), size: content.len() as u64 }
}
