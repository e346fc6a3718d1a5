//! `vfsrun layer export`: a layer in a form that other programs read.

use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::Path;

use vfsrun_layers::{
    Exported, ImageOptions, InputRoot, LayerStore, Manifest, Whiteouts, Written, export_dir, export_image,
    export_mtree, export_reapi, export_tar, write_file,
};

use super::bytes;
use crate::cli::{Export, Format};
use crate::commands::{Failure, Outcome, print_lines};
use crate::log::note;
use crate::progress::Progress;

pub fn export(store: &LayerStore, command: &Export) -> Outcome {
    command.check().map_err(refused)?;
    let own = |error: &dyn std::error::Error| Failure::own(error);
    let (mut layers, mut holds) = (Vec::new(), Vec::new());
    for layer in &command.layers {
        let digest = store.resolve(layer).map_err(|error| own(&error))?;
        // Nothing of them goes meanwhile.
        holds.push(store.hold(&digest).map_err(|error| own(&error))?);
        store.note_use(&digest);
        layers.push(store.manifest(&digest).map_err(|error| own(&error))?);
    }
    let (first, target) = (&layers[0], command.target.as_path());
    let shown = target.display();
    match command.format() {
        Format::Dir | Format::Upper => {
            let exported = export_dir(first, store, target).map_err(|error| own(&error))?;
            note(&format!("{} names in {shown}{}", exported.entries, lost(&exported)));
        }
        Format::Tar => tell(command, &tar(store, first, command, Whiteouts::Refuse)?),
        Format::OciLayer => tell(command, &tar(store, first, command, Whiteouts::Names)?),
        Format::OciLayout => image(store, &layers, command)?,
        Format::Mtree => to_target(command, |out| export_mtree(first, store, out))?,
        Format::Reapi => {
            let root = export_reapi(first, store, command.function(), target).map_err(|error| own(&error))?;
            not_said(&root);
            return print_lines([root.root, format!("tree {}", root.tree)]);
        }
    }
    Ok(0)
}

fn tar(
    store: &LayerStore,
    layer: &Manifest,
    command: &Export,
    whiteouts: Whiteouts,
) -> Result<Written, Failure> {
    to_target(command, |out| export_tar(layer, store, whiteouts, command.compression(), out))
}

fn tell(command: &Export, written: &Written) {
    let shown = if command.is_stdout() { "stdout".into() } else { command.target.display().to_string() };
    let (size, digest) = (bytes(written.size), &written.digest);
    let plain = match &written.diff_id {
        same if same == digest => String::new(),
        diff_id => format!(", uncompressed sha256:{diff_id}"),
    };
    note(&format!("{size} in {shown}, sha256:{digest}{plain}"));
}

fn image(store: &LayerStore, layers: &[Manifest], command: &Export) -> Result<(), Failure> {
    let options = ImageOptions {
        tag: command.tag.clone(),
        compression: command.compression(),
        created: created(std::env::var_os("SOURCE_DATE_EPOCH")).map_err(refused)?,
    };
    let target = &command.target;
    let progress = Progress::of_bytes(&format!("exporting {}", target.display()));
    let written = export_image(layers, store, &options, target, |length| progress.add(length));
    progress.end();
    let (digest, written) = written.map_err(|error| Failure::own(&error))?;
    let size = bytes(written.iter().map(|layer| layer.size).sum());
    note(&format!("image {digest}: {} layers, {size}, in {}", written.len(), target.display()));
    Ok(())
}

/// The epoch unless the environment says when.
fn created(said: Option<std::ffi::OsString>) -> Result<i64, String> {
    let Some(said) = said else { return Ok(0) };
    let seconds = said.to_str().and_then(|text| text.parse().ok());
    // The year 9999 is the last that dates of images can say.
    seconds
        .filter(|seconds| (0..253_402_300_800).contains(seconds))
        .ok_or_else(|| format!("SOURCE_DATE_EPOCH is {said:?}: seconds since the epoch are wanted"))
}

/// A file is written beside its place and renamed; a pipe or a device is written to as it is.
fn to_target<T>(
    command: &Export,
    write: impl FnOnce(&mut dyn Write) -> Result<T, vfsrun_layers::ExportError>,
) -> Result<T, Failure> {
    let (target, layer) = (&command.target, &command.layers[0]);
    let progress = Progress::of_bytes(&format!("exporting {layer}"));
    let written = if command.is_stdout() {
        stdout().and_then(|file| write(&mut progress.writer(file)).map_err(|error| Failure::own(&error)))
    } else if is_special(target) {
        let file = File::options().write(true).open(target).map_err(|error| Failure {
            message: format!("cannot open {}: {error}", target.display()),
            code: 125,
        })?;
        write(&mut progress.writer(file)).map_err(|error| Failure::own(&error))
    } else {
        write_file(target, |file| write(&mut progress.writer(file))).map_err(|error| Failure::own(&error))
    };
    progress.end();
    written
}

/// Not by lines, as the library's own has it.
fn stdout() -> Result<File, Failure> {
    let stdout = io::stdout();
    if stdout.is_terminal() {
        return Err(refused("stdout is a terminal: name a file, or send it to a program".to_owned()));
    }
    let file = stdout.as_fd().try_clone_to_owned().map_err(|error| Failure::own(&error))?;
    Ok(file.into())
}

fn is_special(target: &Path) -> bool {
    std::fs::metadata(target).is_ok_and(|found| !found.is_file() && !found.is_dir())
}

fn lost(exported: &Exported) -> String {
    match (exported.owners_not_set, exported.xattrs_not_set) {
        (0, 0) => String::new(),
        (owners, xattrs) => format!("; not set without more rights: {owners} owners, {xattrs} attributes"),
    }
}

fn not_said(root: &InputRoot) {
    let counts = [
        (root.left_out, "fifos and devices are left out"),
        (root.hard_links, "hard links are files of their own"),
        (root.owners, "owners are lost"),
        (root.attributes, "entries lose set-id bits or attributes"),
    ];
    for (count, what) in counts.into_iter().filter(|(count, _)| *count > 0) {
        note(&format!("{count} {what}"));
    }
}

fn refused(message: String) -> Failure {
    Failure { message, code: 125 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_an_image_is_a_number_of_seconds() {
        assert_eq!(created(None), Ok(0));
        assert_eq!(created(Some("1700000000".into())), Ok(1_700_000_000));
        for text in ["", "-1", "1e9", "yesterday", "253402300800"] {
            assert!(created(Some(text.into())).is_err(), "{text}");
        }
    }
}
