//! `vfsrun inputs`: input manifests that lie in the layer store.

use std::path::Path;

use vfsrun_layers::LayerStore;
use vfsrun_sys::chain;
use vfsrun_union::inputs::blobs_of_stored;

use super::layer::tell_replaced;
use super::{Failure, Outcome, print_lines};
use crate::cli::{Global, Inputs};
use crate::{directories, probe};

pub fn inputs(command: &Inputs, global: &Global) -> Outcome {
    let Inputs::Add { name, manifest } = command;
    let path = directories::store(global.store.as_deref(), probe::caller().privileged)
        .map_err(|error| Failure::own(&error))?;
    let store = LayerStore::open(&path).map_err(|error| Failure::own(&error))?;
    add(&store, name, manifest)
}

fn add(store: &LayerStore, name: &str, manifest: &Path) -> Outcome {
    let failed = |error: &dyn std::error::Error| Failure {
        message: format!("cannot keep {}: {}", manifest.display(), chain(error)),
        code: 125,
    };
    let text = std::fs::read(manifest).map_err(|error| failed(&error))?;
    let blobs = blobs_of_stored(text.clone()).map_err(|error| failed(&error))?;
    let (digest, replaced) = store.put_inputs(name, &text, &blobs).map_err(|error| failed(&error))?;
    tell_replaced(store, name, replaced.as_ref())?;
    print_lines([digest.to_string()])
}
