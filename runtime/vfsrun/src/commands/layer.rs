//! `vfsrun layer`: what the store holds, and ways in and out.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use vfsrun_layers::{
    Digest, Entry, ImportOptions, Kind, LayerStore, OddNames, export_dir, import_dir, import_tar,
};

use super::{Failure, Outcome, print, print_lines};
use crate::cli::{Global, Layer};
use crate::log::note;
use crate::progress::Progress;
use crate::run::first_of;
use crate::{directories, probe};

pub fn layer(command: &Layer, global: &Global) -> Outcome {
    let path = directories::store(global.store.as_deref(), probe::caller().privileged)
        .map_err(|error| Failure::own(&error))?;
    let store = LayerStore::open(&path).map_err(|error| Failure::own(&error))?;
    match command {
        Layer::Import { name, source } => import(&store, name, source),
        Layer::Ls => list(&store),
        Layer::Show { layer, base: false } => show(&store, layer),
        Layer::Show { layer, base: true } => show_base(&store, layer),
        Layer::Export { layer, directory } => export(&store, layer, directory),
        Layer::Rm { layer } => remove(&store, layer),
    }
}

fn import(store: &LayerStore, name: &str, source: &Path) -> Outcome {
    let file = File::open(source).map_err(|error| Failure {
        message: format!("cannot open {}: {error}", source.display()),
        code: 125,
    })?;
    let is_directory = file.metadata().map_err(|error| Failure::own(&error))?.is_dir();
    if is_directory && source.join("oci-layout").exists() {
        let shown = source.display();
        let message = format!(
            "{shown} is an image of several layers; a spec has it as a branch: {{ \"image\": \"{shown}\" }}"
        );
        return Err(Failure { message, code: 125 });
    }
    let progress = Progress::of_bytes(&format!("importing {}", source.display()));
    let options = ImportOptions::default();
    let imported = if is_directory {
        import_dir(file.as_fd(), &options, store)
    } else {
        import_tar(progress.reader(file), &options, store)
    };
    progress.end();
    let imported = imported.map_err(|error| Failure::own(&error))?;
    let replaced = store.set_name(name, &imported.digest).map_err(|error| Failure::own(&error))?;
    let skipped = match imported.devices_skipped + imported.sockets_skipped {
        0 => String::new(),
        count => format!(", {count} devices and sockets left out"),
    };
    let (digest, files) = (imported.digest, imported.files);
    note(&format!("layer {name} {digest}: {files} files, {}{skipped}", bytes(imported.bytes)));
    tell_replaced(store, name, replaced.as_ref())?;
    let manifest = store.manifest(&digest).map_err(|error| Failure::own(&error))?;
    tell_odd_names(&OddNames::of(&manifest));
    Ok(0)
}

/// What had the name before is not gone with it.
pub(super) fn tell_replaced(
    store: &LayerStore,
    name: &str,
    replaced: Option<&Digest>,
) -> Result<(), Failure> {
    let Some(replaced) = replaced else { return Ok(()) };
    let names = store.names().map_err(|error| Failure::own(&error))?;
    let rest = match names.iter().find(|(_, digest)| digest == replaced) {
        Some((other, _)) => format!("which is still named {other}"),
        None => format!("which has no name now: `vfsrun layer rm {replaced}` removes it"),
    };
    note(&format!("{name} was the name of {replaced}, {rest}"));
    Ok(())
}

/// The layer has them all the same.
fn tell_odd_names(odd: &OddNames) {
    let pairs: Vec<_> =
        odd.collisions.iter().map(|(one, two)| format!("{} and {}", one.display(), two.display())).collect();
    let names: Vec<_> = odd.undecodable.iter().map(|name| format!("{name:?}")).collect();
    for (what, all) in [("names that differ in case alone", pairs), ("names that are no UTF-8", names)] {
        if !all.is_empty() {
            note(&format!("{what}: {}", first_of(all.into_iter())));
        }
    }
}

fn list(store: &LayerStore) -> Outcome {
    let layers = store.list().map_err(|error| Failure::own(&error))?;
    let mut lines = vec![format!("{:<24} {:<19} {:>8} {:>10}  {}", "NAME", "DIGEST", "FILES", "SIZE", "AGE")];
    for layer in layers {
        let names = if layer.names.is_empty() { "-".to_owned() } else { layer.names.join(",") };
        let files = layer.files.map_or("damaged".to_owned(), |files| files.to_string());
        let size = layer.bytes.map_or_else(String::new, bytes);
        let age = layer.created.elapsed().map_or_else(|_| String::new(), |age| elapsed(age.as_secs()));
        let digest = &layer.digest.to_string()[..19];
        lines.push(format!("{names:<24} {digest:<19} {files:>8} {size:>10}  {age}"));
    }
    print_lines(lines)
}

fn show(store: &LayerStore, layer: &str) -> Outcome {
    let digest = store.resolve(layer).map_err(|error| Failure::own(&error))?;
    let manifest = store.manifest(&digest).map_err(|error| Failure::own(&error))?;
    print_lines(std::iter::once(digest.to_string()).chain(manifest.entries.iter().map(entry_line)))
}

fn show_base(store: &LayerStore, name: &str) -> Outcome {
    let base = store.base(name).map_err(|error| Failure::own(&error))?;
    match base {
        Some(base) => print(base.to_text().trim_end()),
        None => Err(Failure {
            message: format!(
                "{name}: nothing is known of what it was made from: it is no name that a run has given"
            ),
            code: 125,
        }),
    }
}

fn entry_line(entry: &Entry) -> String {
    let (letter, rest) = match &entry.kind {
        Kind::Directory { opaque: false } => ('d', String::new()),
        Kind::Directory { opaque: true } => ('d', " (opaque)".to_owned()),
        Kind::File { size, .. } => ('-', format!(" {size}")),
        Kind::Symlink { target } => ('l', format!(" -> {}", target.display())),
        Kind::HardLink { to } => ('h', format!(" = /{}", to.display())),
        Kind::Whiteout => ('x', " (deleted)".to_owned()),
        Kind::Fifo => ('p', String::new()),
        Kind::Device { block, major, minor } => (if *block { 'b' } else { 'c' }, format!(" {major}:{minor}")),
    };
    let meta = &entry.meta;
    let path = entry.path.display();
    format!("{letter}{:04o} {:>5} {:>5} /{path}{rest}", meta.mode, meta.uid, meta.gid)
}

fn export(store: &LayerStore, layer: &str, directory: &Path) -> Outcome {
    let digest = store.resolve(layer).map_err(|error| Failure::own(&error))?;
    let manifest = store.manifest(&digest).map_err(|error| Failure::own(&error))?;
    let exported = export_dir(&manifest, store, directory).map_err(|error| Failure::own(&error))?;
    let lost = match (exported.owners_not_set, exported.xattrs_not_set) {
        (0, 0) => String::new(),
        (owners, xattrs) => format!("; not set without more rights: {owners} owners, {xattrs} attributes"),
    };
    note(&format!("{} names in {}{lost}", exported.entries, directory.display()));
    Ok(0)
}

fn remove(store: &LayerStore, layer: &str) -> Outcome {
    let removed = store.remove(layer).map_err(|error| Failure::own(&error))?;
    match removed.layer {
        Some(digest) => note(&format!("removed {digest}, {} given back", bytes(removed.bytes))),
        None => note(&format!("removed the name {layer}; another one keeps the layer")),
    }
    Ok(0)
}

fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

fn elapsed(seconds: u64) -> String {
    indicatif::HumanDuration(std::time::Duration::from_secs(seconds)).to_string()
}
