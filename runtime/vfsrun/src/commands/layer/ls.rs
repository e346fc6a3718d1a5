//! `vfsrun layer ls`: the layers of the store.

use std::cmp::Reverse;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use vfsrun_layers::{Digest, LayerInfo, LayerStore};

use super::{bytes, elapsed};
use crate::commands::{Failure, Outcome, print, print_lines};

/// Digits of a digest that are shown, `b3:` included.
const SHORT: usize = 19;

pub fn ls(store: &LayerStore, as_json: bool) -> Outcome {
    let mut layers = store.list().map_err(|error| Failure::own(&error))?;
    layers.sort_by(|a, b| key(a).cmp(&key(b)));
    if as_json {
        let layers: Vec<Value> = layers.iter().map(object).collect();
        let text = serde_json::to_string_pretty(&layers).map_err(|error| Failure::own(&error))?;
        return print(&text);
    }
    let title = line(["NAME", "DIGEST", "FILES", "SIZE", "OWN", "AGE", "USED"].map(str::to_owned));
    print_lines(std::iter::once(title).chain(layers.iter().map(row)))
}

/// Those with a name by that, then the others, the last used first.
fn key(layer: &LayerInfo) -> impl Ord {
    (layer.names.is_empty(), layer.names.clone(), Reverse(layer.last_used), layer.digest)
}

fn row(layer: &LayerInfo) -> String {
    let size = |size: Option<u64>| size.map_or_else(String::new, bytes);
    line([
        names(layer),
        layer.digest.to_string()[..SHORT].to_owned(),
        layer.files.map_or("damaged".to_owned(), |files| files.to_string()),
        size(layer.bytes),
        size(layer.own_bytes),
        since(layer.created),
        if layer.in_use { "now".to_owned() } else { since(layer.last_used) },
    ])
}

/// A layer without one is marked by the names that hold it all the same.
fn names(layer: &LayerInfo) -> String {
    match (layer.names.is_empty(), layer.contents_of.is_empty()) {
        (false, _) => layer.names.join(","),
        (true, false) => format!("({})", layer.contents_of.join(",")),
        (true, true) => "-".to_owned(),
    }
}

fn line([name, digest, files, size, own, age, used]: [String; 7]) -> String {
    let line = format!("{name:<24} {digest:<SHORT$} {files:>8} {size:>11} {own:>11}  {age:<11} {used}");
    line.trim_end().to_owned()
}

pub(super) fn since(time: SystemTime) -> String {
    if time == UNIX_EPOCH {
        return "never".to_owned();
    }
    time.elapsed().map_or_else(|_| "now".to_owned(), |age| elapsed(age.as_secs()))
}

fn object(layer: &LayerInfo) -> Value {
    json!({
        "names": layer.names,
        "digest": layer.digest.to_string(),
        "files": layer.files,
        "bytes": layer.bytes,
        "ownBytes": layer.own_bytes,
        "created": seconds(layer.created),
        "lastUsed": seconds(layer.last_used),
        "inUse": layer.in_use,
        "over": over(layer),
        "contentsOf": layer.contents_of,
    })
}

/// By name, since each is one user's hold on one capture.
fn over(layer: &LayerInfo) -> Value {
    let digests = |layers: &[Digest]| layers.iter().map(Digest::to_string).collect::<Vec<_>>();
    layer.over.iter().map(|(name, layers)| (name.clone(), json!(digests(layers)))).collect()
}

/// Since the epoch.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
