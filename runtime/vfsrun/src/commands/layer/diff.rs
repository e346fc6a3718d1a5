//! `vfsrun layer diff`: what differs between two layers.

use serde_json::{Value, json};
use vfsrun_layers::diff::{self, Change, Difference};
use vfsrun_layers::{LayerStore, Manifest};

use crate::commands::{Failure, Outcome, print, print_lines};

pub fn diff(store: &LayerStore, layers: [&str; 2], as_json: bool) -> Outcome {
    let [first, second] = layers.map(|layer| manifest(store, layer));
    let differences = diff::diff(&first?, &second?);
    if as_json {
        let objects: Vec<Value> = differences.iter().map(object).collect();
        print(&serde_json::to_string_pretty(&objects).map_err(|error| Failure::own(&error))?)?;
    } else if !differences.is_empty() {
        print_lines(differences.iter().map(Difference::to_string))?;
    }
    Ok(u8::from(!differences.is_empty()))
}

fn manifest(store: &LayerStore, layer: &str) -> Result<Manifest, Failure> {
    let found = store.resolve(layer).and_then(|digest| store.manifest(&digest));
    found.map_err(|error| Failure::own(&error))
}

fn object(difference: &Difference) -> Value {
    let path = difference.shown_path();
    match &difference.change {
        Change::Added => json!({ "path": path, "change": "added" }),
        Change::Removed => json!({ "path": path, "change": "removed" }),
        Change::Changed(aspects) => {
            let aspects: Vec<_> = aspects.iter().map(|aspect| aspect.name()).collect();
            json!({ "path": path, "change": "changed", "aspects": aspects })
        }
    }
}
