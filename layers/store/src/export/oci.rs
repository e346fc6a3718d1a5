//! Layers as an image: a directory in the OCI image layout, as skopeo, podman and umoci read it.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use oci_spec::image::{ANNOTATION_REF_NAME, Arch, Os};
use serde_json::{Value, json};
use vfsrun_sys::date;

use super::dir::open_target;
use super::file::write_file;
use super::stream::{Compression, Written};
use super::tar::{Whiteouts, export_tar};
use super::{ExportError, failed};
use crate::manifest::Manifest;
use crate::sha256;
use crate::store::LayerStore;

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// What an image says besides its layers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ImageOptions {
    /// The name by which `DIR:TAG` finds it.
    pub tag: Option<String>,
    /// Of the layers. umoci 0.4 reads no zstd.
    pub compression: Compression,
    /// Seconds since the epoch at which it was made.
    pub created: i64,
}

/// Writes an image of `layers`, first on top, to `target`, which must be missing or an empty directory. The same layers
/// and options give the same files. `progress` is told the bytes that are written, as it goes on. Returns the digest of
/// the image's manifest (`sha256:HEX`), and what was written of each layer, lowest first.
///
/// Errors: those of [`export_tar`]; nothing is left in `target` then.
pub fn export_image(
    layers: &[Manifest],
    store: &LayerStore,
    options: &ImageOptions,
    target: &Path,
    progress: impl Fn(usize),
) -> Result<(String, Vec<Written>), ExportError> {
    open_target(target)?;
    let written = write(layers, store, options, target, &progress);
    if written.is_err() {
        // It was empty.
        for path in ["blobs", "oci-layout", "index.json"].map(|name| target.join(name)) {
            let _ = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(&path));
        }
    }
    written
}

fn write(
    layers: &[Manifest],
    store: &LayerStore,
    options: &ImageOptions,
    target: &Path,
    progress: &impl Fn(usize),
) -> Result<(String, Vec<Written>), ExportError> {
    let blobs = target.join("blobs/sha256");
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&blobs)
        .map_err(failed("make the directory", &blobs))?;
    let mut written = Vec::new();
    // An image has its lowest layer first.
    for manifest in layers.iter().rev() {
        written.push(layer(manifest, store, options.compression, &blobs, progress)?);
    }
    let created = format!("{}Z", date::utc(options.created));
    let config = json_blob(&blobs, CONFIG, &config(layers, &written, &created))?;
    let descriptors: Vec<Value> =
        written.iter().map(|layer| descriptor(&media_type(options.compression), layer)).collect();
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": descriptors });
    let mut manifest = json_blob(&blobs, MANIFEST, &manifest)?;
    let digest = manifest["digest"].as_str().unwrap_or_default().to_owned();
    if let Some(tag) = &options.tag {
        manifest["annotations"] = json!({ ANNOTATION_REF_NAME: tag });
    }
    json_file(&target.join("oci-layout"), &json!({ "imageLayoutVersion": "1.0.0" }))?;
    // Last: without it there is no image.
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [manifest] });
    json_file(&target.join("index.json"), &index)?;
    Ok((digest, written))
}

fn layer(
    manifest: &Manifest,
    store: &LayerStore,
    compression: Compression,
    blobs: &Path,
    progress: &impl Fn(usize),
) -> Result<Written, ExportError> {
    let growing = blobs.join("layer");
    let written = write_file(&growing, |file| {
        let told = Told { file, progress };
        export_tar(manifest, store, Whiteouts::Names, compression, told)
    })?;
    fs::rename(&growing, blobs.join(&written.digest)).map_err(failed("put in place", &growing))?;
    Ok(written)
}

/// A file of which it is told how much was written.
struct Told<'a, F> {
    file: &'a File,
    progress: &'a F,
}

impl<F: Fn(usize)> Write for Told<'_, F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let length = self.file.write(bytes)?;
        (self.progress)(length);
        Ok(length)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

fn config(layers: &[Manifest], written: &[Written], created: &str) -> Value {
    let diff_ids: Vec<String> = written.iter().map(|layer| format!("sha256:{}", layer.diff_id)).collect();
    let history: Vec<Value> = layers
        .iter()
        .rev()
        .map(|manifest| json!({ "created": created, "created_by": format!("vfsrun layer {}", manifest.digest()) }))
        .collect();
    json!({
        "created": created,
        "architecture": Arch::default(),
        "os": Os::default(),
        "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
        "history": history,
    })
}

fn media_type(compression: Compression) -> String {
    let suffix = match compression {
        Compression::None => "",
        Compression::Gzip => "+gzip",
        Compression::Zstd => "+zstd",
    };
    format!("{LAYER}{suffix}")
}

fn descriptor(media_type: &str, blob: &Written) -> Value {
    json!({ "mediaType": media_type, "digest": format!("sha256:{}", blob.digest), "size": blob.size })
}

/// Returns its descriptor.
fn json_blob(blobs: &Path, media_type: &str, value: &Value) -> Result<Value, ExportError> {
    let text = value.to_string();
    let digest = sha256::of(text.as_bytes());
    json_file(&blobs.join(&digest), value)?;
    Ok(json!({ "mediaType": media_type, "digest": format!("sha256:{digest}"), "size": text.len() }))
}

fn json_file(path: &Path, value: &Value) -> Result<(), ExportError> {
    write_file(path, |mut file| file.write_all(value.to_string().as_bytes()).map_err(failed("write", path)))
}
