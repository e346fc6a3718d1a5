//! `vfsrun layer`: what the store holds, and ways in and out.

mod diff;
mod export;
mod gc;
mod ls;
mod recover;
mod verify;

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use vfsrun_layers::{
    Digest, DigestFunction, Entry, ImportOptions, Kind, LayerStore, OddNames, Recovery, Removed, RootDigest,
    check_name, import_dir, import_reapi, import_tar,
};

use vfsrun_sys::chain;

use super::{Failure, Outcome, changes, print, print_lines};
use crate::cli::{Global, Layer, LayerCare};
use crate::log::note;
use crate::progress::Progress;
use crate::run::first_of;
use crate::{directories, probe};

pub fn layer(command: &Layer, global: &Global) -> Outcome {
    let path = directories::store(global.store.as_deref(), probe::caller().privileged)
        .map_err(|error| Failure::own(&error))?;
    let store = LayerStore::open(&path).map_err(|error| Failure::own(&error))?;
    match command {
        Layer::Import { name, source, overlay, devices, reapi, digest } => {
            let options = ImportOptions { overlay: *overlay, devices: *devices, ..ImportOptions::default() };
            let input_root =
                reapi.as_ref().map(|root| (root, digest.map(DigestFunction::from).unwrap_or_default()));
            import(&store, name, source, input_root, &options)
        }
        Layer::Ls { json } => ls::ls(&store, *json),
        Layer::Show { layer, base: false } => show(&store, layer),
        Layer::Show { layer, base: true } => show_base(&store, layer),
        Layer::Export(command) => export::export(&store, command),
        Layer::Rm { layers } => remove(&store, layers),
        Layer::Care(command) => care(&store, command),
    }
}

fn care(store: &LayerStore, command: &LayerCare) -> Outcome {
    match command {
        LayerCare::Tag { layer, name } => tag(store, layer, name),
        LayerCare::Diff { json, first, second } => diff::diff(store, [first, second], *json),
        LayerCare::Verify { json, layers } => verify::verify(store, layers, *json),
        LayerCare::Gc { dry_run, keep_days, keep_bytes } => {
            gc::gc(store, *dry_run, *keep_days, keep_bytes.map(|size| size.0))
        }
        LayerCare::Recover { id, name, devices, drop } => {
            let how = Recovery { name: name.as_deref(), devices: *devices };
            recover::recover(store, id.as_deref(), how, drop.as_deref())
        }
    }
}

fn import(
    store: &LayerStore,
    name: &str,
    source: &Path,
    input_root: Option<(&RootDigest, DigestFunction)>,
    options: &ImportOptions,
) -> Outcome {
    check_name(name).map_err(|error| Failure::own(&error))?;
    let file = open(source).map_err(|error| Failure {
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
    // A collection must not come between the layer and its name.
    let _adding = store.adding().map_err(|error| Failure::own(&error))?;
    let progress = Progress::of_bytes(&format!("importing {}", source.display()));
    let imported = match input_root {
        Some((root, function)) => {
            let stored = |size| progress.add(usize::try_from(size).unwrap_or(usize::MAX));
            import_reapi(file.as_fd(), root, function, options, store, stored)
                .map_err(|error| Failure::own(&error))
        }
        None if is_directory => {
            import_dir(file.as_fd(), options, store).map_err(|error| Failure::own(&error))
        }
        None => import_tar(progress.reader(file), options, store).map_err(|error| Failure::own(&error)),
    };
    progress.end();
    let imported = imported?;
    let replaced = store.set_name(name, &imported.digest).map_err(|error| Failure::own(&error))?;
    let skipped = match imported.devices_skipped + imported.sockets_skipped {
        0 => String::new(),
        count => format!(", {count} devices and sockets left out"),
    };
    let (digest, files) = (imported.digest, imported.files);
    note(&format!("layer {name} {digest}: {files} files, {}{skipped}", bytes(imported.bytes)));
    if imported.properties_skipped > 0 {
        note(&format!("{} node properties are left out", imported.properties_skipped));
    }
    tell_replaced(store, name, replaced.as_ref())?;
    let manifest = store.manifest(&digest).map_err(|error| Failure::own(&error))?;
    tell_odd_names(&OddNames::of(&manifest));
    Ok(0)
}

/// `-` is stdin: what `layer export` writes to a pipe.
fn open(source: &Path) -> io::Result<File> {
    match source.to_str() {
        Some("-") => Ok(io::stdin().as_fd().try_clone_to_owned()?.into()),
        _ => File::open(source),
    }
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

fn show(store: &LayerStore, layer: &str) -> Outcome {
    let digest = store.resolve(layer).map_err(|error| Failure::own(&error))?;
    let manifest = store.manifest(&digest).map_err(|error| Failure::own(&error))?;
    print_lines(std::iter::once(digest.to_string()).chain(manifest.entries.iter().map(entry_line)))
}

fn show_base(store: &LayerStore, name: &str) -> Outcome {
    print(changes::base(store, name)?.to_text().trim_end())
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

/// As many as can be; what stays is told at the end.
fn remove(store: &LayerStore, layers: &[String]) -> Outcome {
    let mut failed = Vec::new();
    for layer in layers {
        match store.remove(layer) {
            Ok(Removed { layer: Some(digest), bytes: freed, .. }) => {
                note(&format!("removed {digest}, {} given back", bytes(freed)));
            }
            Ok(Removed { in_use: true, .. }) => {
                note(&format!(
                    "removed the name {layer}; its layer is in use, and `vfsrun layer gc` removes it afterwards"
                ));
            }
            Ok(_) => note(&format!("removed the name {layer}; its layer has another one, or is gone")),
            Err(error) => failed.push(chain(&error)),
        }
    }
    if failed.is_empty() { Ok(0) } else { Err(Failure { message: failed.join("; "), code: 125 }) }
}

fn tag(store: &LayerStore, layer: &str, name: &str) -> Outcome {
    let digest = store.resolve(layer).map_err(|error| Failure::own(&error))?;
    let replaced = store.tag(name, &digest).map_err(|error| Failure::own(&error))?;
    tell_replaced(store, name, replaced.as_ref())?;
    Ok(0)
}

fn bytes(count: u64) -> String {
    indicatif::HumanBytes(count).to_string()
}

fn elapsed(seconds: u64) -> String {
    indicatif::HumanDuration(std::time::Duration::from_secs(seconds)).to_string()
}
