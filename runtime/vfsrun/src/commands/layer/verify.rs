//! `vfsrun layer verify`: whether everything in the store is what it is named by.

use serde_json::{Value, json};
use vfsrun_layers::verify::{Problem, Use, Verified, What};
use vfsrun_layers::{LayerStore, escape};

use super::bytes;
use crate::commands::{Failure, Outcome, print, print_lines};
use crate::log::note;
use crate::progress::Progress;

pub fn verify(store: &LayerStore, layers: &[String], as_json: bool) -> Outcome {
    let progress = Progress::of_bytes("verifying");
    let add = |count| progress.add(count as usize);
    let found = if layers.is_empty() { store.verify(&add) } else { store.verify_layers(layers, &add) };
    progress.end();
    let found = found.map_err(|error| Failure::own(&error))?;
    if as_json {
        print(&serde_json::to_string_pretty(&report(&found)).map_err(|error| Failure::own(&error))?)?;
    } else {
        if !found.problems.is_empty() {
            print_lines(found.problems.iter().map(Problem::to_string))?;
        }
        tell(&found);
    }
    Ok(u8::from(!found.problems.is_empty()))
}

/// What was looked at, and what is no problem.
fn tell(found: &Verified) {
    let problems = match found.problems.len() {
        0 => "no problem".to_owned(),
        1 => "1 problem".to_owned(),
        count => format!("{count} problems"),
    };
    note(&format!("{} layers, {} blobs, {}: {problems}", found.layers, found.blobs, bytes(found.bytes)));
    let (blobs, size) = found.unreferenced;
    if blobs > 0 {
        note(&format!("{blobs} blobs, {}, belong to no layer: `vfsrun layer gc` removes them", bytes(size)));
    }
    if found.unsettled > 0 {
        note(&format!(
            "{} sound blobs are hashed whenever they are used: a capture of them was interrupted, or they were \
                       touched; `vfsrun layer import` of the same source settles them",
            found.unsettled
        ));
    }
    if found.dead > 0 {
        note(&format!(
            "{} directories of dead processes: the next run or `vfsrun layer gc` removes them",
            found.dead
        ));
    }
}

fn report(found: &Verified) -> Value {
    json!({
        "layers": found.layers,
        "blobs": found.blobs,
        "bytes": found.bytes,
        "problems": found.problems.iter().map(object).collect::<Vec<_>>(),
        "unreferencedBlobs": found.unreferenced.0,
        "unreferencedBytes": found.unreferenced.1,
        "unsettledBlobs": found.unsettled,
        "deadDirectories": found.dead,
    })
}

fn object(problem: &Problem) -> Value {
    let (digest, name) = match &problem.what {
        What::Layer(digest) | What::Blob(digest) => (Some(digest.to_string()), None),
        What::Name(name) | What::Base(name) => (None, Some(name)),
        What::Stray => (None, None),
    };
    let layer = |used: &Use| {
        let path = used.path.as_deref().map(escape::shown_path);
        json!({
            "layer": used.layer.to_string(),
            "names": used.names,
            "contentsOf": used.contents_of,
            "path": path,
            "more": used.more,
        })
    };
    json!({
        "what": problem.what.kind(),
        "digest": digest,
        "name": name,
        "file": problem.file.to_string_lossy(),
        "fault": problem.fault.kind(),
        "message": problem.fault.to_string(),
        "remedy": problem.remedy(),
        "layers": problem.uses.iter().map(layer).collect::<Vec<_>>(),
    })
}
