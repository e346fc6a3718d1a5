//! An image: a directory in the OCI image layout, whose layers become layers of the store.
//!
//! Nothing in it is believed that its digest does not vouch for. A layer of an image has the name `sha256/HEX` in the
//! store, after the blob that it came from, so that images share what they have in common.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::image::{
    ANNOTATION_REF_NAME, Arch, Descriptor, DigestAlgorithm, ImageIndex, ImageManifest, MediaType, Os,
};
use rustix::fs::{Mode, OFlags};
use thiserror::Error;

use crate::digest::Digest;
use crate::fsat;
use crate::import::{ImportError, ImportOptions, import_tar};
use crate::sha256::Hashed;
use crate::store::{LayerStore, StoreError};

/// As other readers of manifests have it.
const MAX_JSON: u64 = 4 << 20;
/// An index may name another one, not a third.
const MAX_DEPTH: usize = 2;

#[derive(Debug, Error)]
pub enum ImageError {
    #[error("{} is no image: it has no file oci-layout", dir.display())]
    NoLayout { dir: PathBuf },
    #[error("cannot read {} of the image", file.display())]
    Read { file: PathBuf, source: io::Error },
    #[error("{} of the image is larger than {MAX_JSON} bytes", file.display())]
    TooLarge { file: PathBuf },
    #[error("{} of the image is no {what}", file.display())]
    Parse { file: PathBuf, what: &'static str, source: oci_spec::OciSpecError },
    #[error("the image has no tag {tag:?}; it has {}", told(known))]
    NoTag { tag: String, known: Vec<String> },
    #[error("the image has several manifests; add one of its tags, as in DIR:TAG: {}", told(known))]
    Ambiguous { known: Vec<String> },
    #[error("the image has nothing for {os}/{arch}")]
    NoPlatform { os: Os, arch: Arch },
    #[error("the image has {0}, which is neither an index nor a manifest")]
    Kind(String),
    #[error("the image's indexes are nested too deeply")]
    Nested,
    #[error("layer {blob} of the image is of the type {kind}, which is not read")]
    LayerKind { blob: String, kind: String },
    #[error("{0} of the image has a digest that is not sha256")]
    Algorithm(String),
    #[error("{blob} of the image is damaged: its content has the digest {found}")]
    Damaged { blob: String, found: String },
    #[error("cannot import layer {blob} of the image")]
    Import { blob: String, source: ImportError },
    #[error("cannot name layer {blob} of the image")]
    Name { blob: String, source: StoreError },
}

fn told(known: &[String]) -> String {
    if known.is_empty() { "none".to_owned() } else { known.join(", ") }
}

/// The layers of one image.
#[derive(Debug)]
pub struct Image {
    dir: OwnedFd,
    layers: Vec<Descriptor>,
}

impl Image {
    /// Reads the manifest of `tag`, for this machine where there are several. Without a tag there must be one manifest.
    pub fn open(path: &Path, tag: Option<&str>) -> Result<Image, ImageError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let dir = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| ImageError::Read { file: path.into(), source: errno.into() })?;
        match fsat::stat(&dir, "oci-layout") {
            Ok(Some(_)) => {}
            Ok(None) => return Err(ImageError::NoLayout { dir: path.into() }),
            Err(errno) => {
                return Err(ImageError::Read { file: "oci-layout".into(), source: errno.into() });
            }
        }
        let index = parse_index(Path::new("index.json"), &read_json(&dir, Path::new("index.json"))?)?;
        let found = tagged(&index, tag)?.clone();
        let manifest = manifest(&dir, found, 0)?;
        Ok(Image { dir, layers: manifest.layers().clone() })
    }

    /// The names that the layers have in the store, first on top.
    pub fn names(&self) -> Vec<String> {
        self.layers.iter().rev().map(name).collect()
    }

    /// Puts into the store what is not there yet, each blob read through `reading`.
    pub fn import_missing<R: Read>(
        &self,
        store: &LayerStore,
        mut reading: impl FnMut(File) -> R,
    ) -> Result<(), ImageError> {
        for layer in &self.layers {
            let name = name(layer);
            if store.resolve(&name).is_ok() {
                continue;
            }
            refuse_kind(layer)?;
            let blob = blob(layer);
            // Before anything of it gets into the store; again below, for it may change meanwhile.
            let (file, read) = (self.open_blob(layer)?, |source| self.cannot_read(layer, source));
            let mut hashed = Hashed::new(file);
            io::copy(&mut hashed, &mut io::sink()).map_err(read)?;
            hashed.verify(layer)?;
            let mut hashed = Hashed::new(reading(self.open_blob(layer)?));
            // A collection must not come between the layer and its name.
            let _adding = store.adding().map_err(|source| ImageError::Name { blob: blob.clone(), source })?;
            let imported = import_tar(&mut hashed, &ImportOptions::default(), store)
                .map_err(|source| ImageError::Import { blob: blob.clone(), source })?;
            io::copy(&mut hashed, &mut io::sink()).map_err(read)?;
            hashed.verify(layer)?;
            store.set_name(&name, &imported.digest).map_err(|source| ImageError::Name { blob, source })?;
        }
        Ok(())
    }

    /// The layers in the store, first on top. Errors: the store lacks one, or its name.
    pub fn layers(&self, store: &LayerStore) -> Result<Vec<Digest>, StoreError> {
        self.names().iter().map(|name| store.resolve(name)).collect()
    }

    fn open_blob(&self, layer: &Descriptor) -> Result<File, ImageError> {
        let path = blob_path(layer)?;
        open(&self.dir, &path).map_err(|source| ImageError::Read { file: path, source })
    }

    fn cannot_read(&self, layer: &Descriptor, source: io::Error) -> ImageError {
        ImageError::Read { file: PathBuf::from(blob(layer)), source }
    }
}

/// The one descriptor that is meant.
fn tagged<'a>(index: &'a ImageIndex, tag: Option<&str>) -> Result<&'a Descriptor, ImageError> {
    let tag_of = |descriptor: &Descriptor| {
        descriptor.annotations().as_ref().and_then(|notes| notes.get(ANNOTATION_REF_NAME).cloned())
    };
    let known = || index.manifests().iter().filter_map(tag_of).collect();
    match tag {
        Some(tag) => {
            let mut all = index.manifests().iter();
            all.find(|descriptor| tag_of(descriptor).as_deref() == Some(tag))
                .ok_or_else(|| ImageError::NoTag { tag: tag.to_owned(), known: known() })
        }
        None => match index.manifests().as_slice() {
            [only] => Ok(only),
            _ => Err(ImageError::Ambiguous { known: known() }),
        },
    }
}

fn manifest(dir: &OwnedFd, found: Descriptor, depth: usize) -> Result<ImageManifest, ImageError> {
    let path = blob_path(&found)?;
    match found.media_type().to_string().as_str() {
        "application/vnd.oci.image.manifest.v1+json"
        | "application/vnd.docker.distribution.manifest.v2+json" => {
            let text = read_verified(dir, &found)?;
            ImageManifest::from_reader(text.as_slice()).map_err(|source| ImageError::Parse {
                file: path,
                what: "manifest",
                source,
            })
        }
        "application/vnd.oci.image.index.v1+json"
        | "application/vnd.docker.distribution.manifest.list.v2+json" => {
            if depth == MAX_DEPTH {
                return Err(ImageError::Nested);
            }
            let index = parse_index(&path, &read_verified(dir, &found)?)?;
            let (os, arch) = (Os::default(), Arch::default());
            let fits = |descriptor: &&Descriptor| {
                descriptor
                    .platform()
                    .as_ref()
                    .is_some_and(|platform| *platform.os() == os && *platform.architecture() == arch)
            };
            let fitting = index.manifests().iter().find(fits).cloned();
            manifest(dir, fitting.ok_or(ImageError::NoPlatform { os, arch })?, depth + 1)
        }
        other => Err(ImageError::Kind(other.to_owned())),
    }
}

fn refuse_kind(layer: &Descriptor) -> Result<(), ImageError> {
    const DOCKER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    match layer.media_type() {
        MediaType::ImageLayer | MediaType::ImageLayerGzip | MediaType::ImageLayerZstd => Ok(()),
        MediaType::Other(kind) if kind == DOCKER => Ok(()),
        kind => Err(ImageError::LayerKind { blob: blob(layer), kind: kind.to_string() }),
    }
}

fn parse_index(file: &Path, text: &[u8]) -> Result<ImageIndex, ImageError> {
    ImageIndex::from_reader(text).map_err(|source| ImageError::Parse {
        file: file.into(),
        what: "image index",
        source,
    })
}

fn read_verified(dir: &OwnedFd, descriptor: &Descriptor) -> Result<Vec<u8>, ImageError> {
    let text = read_json(dir, &blob_path(descriptor)?)?;
    let mut hashed = Hashed::new(text.as_slice());
    io::copy(&mut hashed, &mut io::sink()).expect("memory can be read");
    hashed.verify(descriptor)?;
    Ok(text)
}

fn read_json(dir: &OwnedFd, path: &Path) -> Result<Vec<u8>, ImageError> {
    let read = |source| ImageError::Read { file: path.into(), source };
    let mut text = Vec::new();
    open(dir, path).map_err(read)?.take(MAX_JSON + 1).read_to_end(&mut text).map_err(read)?;
    if text.len() as u64 > MAX_JSON { Err(ImageError::TooLarge { file: path.into() }) } else { Ok(text) }
}

/// Through no symlink.
fn open(dir: &OwnedFd, path: &Path) -> io::Result<File> {
    let mut here = dir.try_clone()?;
    let mut names = path.iter().peekable();
    while let Some(name) = names.next() {
        if names.peek().is_none() {
            return Ok(fsat::open_file(&here, name)?.into());
        }
        here = fsat::open_dir(&here, name)?;
    }
    Err(io::ErrorKind::InvalidInput.into())
}

/// As in the image: `sha256:HEX`.
fn blob(descriptor: &Descriptor) -> String {
    descriptor.digest().to_string()
}

/// In the store.
fn name(layer: &Descriptor) -> String {
    blob(layer).replace(':', "/")
}

fn blob_path(descriptor: &Descriptor) -> Result<PathBuf, ImageError> {
    // What has parsed as a digest has hexadecimal digits only.
    match descriptor.digest().algorithm() {
        DigestAlgorithm::Sha256 => Ok(Path::new("blobs/sha256").join(descriptor.digest().digest())),
        _ => Err(ImageError::Algorithm(blob(descriptor))),
    }
}

impl<R: Read> Hashed<R> {
    fn verify(self, descriptor: &Descriptor) -> Result<(), ImageError> {
        let (found, _) = self.finish();
        if found == descriptor.digest().digest() {
            return Ok(());
        }
        Err(ImageError::Damaged { blob: blob(descriptor), found: format!("sha256:{found}") })
    }
}
