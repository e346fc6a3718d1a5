//! A branch: one source of names for the root, with its place in it and what of it is seen.

use std::path::{Path, PathBuf};

use serde::ser::SerializeStruct;
use serde::{Deserialize, Serialize, Serializer};

use super::{Perms, Rule, Xattrs};

/// One entry of `vfs.branches`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "BranchFields")]
pub struct Branch {
    pub source: BranchSource,
    /// Where it is in the root: absolute, without `..`. Default `/`.
    pub at: PathBuf,
    /// gitignore lines, relative to `at`: what matches is not there (ENOENT).
    pub hide: Vec<String>,
    /// gitignore lines, relative to `at`: what does not match is not there. Empty: everything is.
    pub only: Vec<String>,
    pub rules: Vec<Rule>,
    pub symlinks: Symlinks,
    pub scope: Scope,
    /// The source never changes, so it is never checked for changes.
    pub frozen: bool,
    /// How changes of a source that is not frozen are noticed.
    pub live: Live,
    /// How a directory of the host says which names of the branches below are deleted.
    pub whiteouts: Whiteouts,
    /// What of the files' extended attributes is shown.
    pub xattrs: Xattrs,
    /// Owners and modes are those that a rootless container store keeps in an attribute.
    pub override_stat: bool,
    /// Shown instead of the owners of the files.
    pub owner: Owner,
    /// Shown instead of the permissions of the files.
    pub perms: Option<Perms>,
    /// Set-id bits and file capabilities are shown.
    pub trusted: bool,
    /// [`Access::ReadWrite`] is a write-through bind: only with [`BranchSource::Path`], with no rules, and not
    /// captured.
    pub access: Access,
}

impl Branch {
    /// Whether other owners or permissions are shown than the files have.
    pub fn is_rewritten(&self) -> bool {
        self.override_stat || self.owner != Owner::default() || self.perms.is_some()
    }

    /// A read-only branch at `/` with every default.
    pub fn new(source: BranchSource) -> Self {
        Self {
            source,
            at: PathBuf::from("/"),
            hide: Vec::new(),
            only: Vec::new(),
            rules: Vec::new(),
            symlinks: Symlinks::default(),
            scope: Scope::default(),
            frozen: false,
            live: Live::default(),
            whiteouts: Whiteouts::default(),
            xattrs: Xattrs::default(),
            override_stat: false,
            owner: Owner::default(),
            perms: None,
            trusted: false,
            access: Access::default(),
        }
    }
}

/// Where a branch's names come from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BranchSource {
    /// `path`: a directory or file of the host: absolute, `~/…`, or relative to the spec's file.
    Path(PathBuf),
    /// `glob`: every directory and file of the host that the pattern matches, in the order of their names.
    Glob(String),
    /// `layer`: a name or digest in the layer store.
    Layer(String),
    /// `image`: a directory in the OCI image layout, `DIR` or `DIR:TAG`. See [`image_parts`].
    Image(String),
    /// `inputs`: a manifest file that maps paths in the root to host files or digests.
    Inputs(PathBuf),
    /// `inputs`: the same out of the layer store: `b3:` and 64 hexadecimal digits.
    StoredInputs(String),
    /// `"host": "tools"`: this host's compiler and libraries.
    HostTools,
    /// `"root": true`: `root.path`, which is the lowest branch where no branch says it.
    Root,
}

/// The directory and the tag of an `image`. What has a `/` in it is no tag.
pub fn image_parts(image: &str) -> (&Path, Option<&str>) {
    match image.rsplit_once(':') {
        Some((dir, tag)) if !tag.contains('/') => (Path::new(dir), Some(tag)),
        _ => (Path::new(image), None),
    }
}

/// `symlinks`: which links of a branch are shown as what they point to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Symlinks {
    /// All stay links.
    #[default]
    Never,
    /// Links to directories are followed.
    Directory,
    /// Links to regular files are followed.
    Regular,
    All,
}

/// `scope`: where the target of a followed link is looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// In the merged root.
    #[default]
    View,
    /// In the branch itself.
    Branch,
    /// On the host.
    Host,
}

/// `live`: how it is noticed that a host directory has changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Live {
    /// By watch where that proves as much as a sweep, else by sweep.
    #[default]
    Auto,
    /// By watch also where nothing proves that no program was writing already when the watch began.
    Watch,
    /// By a stat of every name that was looked at.
    Sweep,
}

/// `whiteouts`: the form in which a directory speaks of the branches below it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Whiteouts {
    /// It does not.
    #[default]
    None,
    /// The upper of an overlayfs.
    Overlay,
    /// An unpacked layer of an image, with `.wh.` files.
    Oci,
}

/// `owner`: ids as the command sees them; what is not said stays as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Owner {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
}

/// `mode`: whether writes below a branch reach its source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Access {
    /// No: they go to the upper.
    #[default]
    #[serde(rename = "ro")]
    ReadOnly,
    #[serde(rename = "rw")]
    ReadWrite,
}

/// A branch as it is written in JSON, before "exactly one source" is checked.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BranchFields {
    path: Option<PathBuf>,
    glob: Option<String>,
    layer: Option<String>,
    image: Option<String>,
    inputs: Option<String>,
    host: Option<HostPreset>,
    root: Option<True>,
    at: Option<PathBuf>,
    #[serde(default)]
    hide: Vec<String>,
    only: Option<Vec<String>>,
    #[serde(default)]
    rules: Vec<Rule>,
    #[serde(default)]
    symlinks: Symlinks,
    #[serde(default)]
    scope: Scope,
    #[serde(default)]
    frozen: bool,
    #[serde(default)]
    live: Live,
    #[serde(default)]
    whiteouts: Whiteouts,
    #[serde(default)]
    xattrs: Xattrs,
    #[serde(default, rename = "overrideStat")]
    override_stat: bool,
    #[serde(default)]
    owner: Owner,
    perms: Option<Perms>,
    #[serde(default)]
    trusted: bool,
    #[serde(default)]
    mode: Access,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum HostPreset {
    Tools,
}

/// The one value that a flag may have.
#[derive(Deserialize)]
#[serde(try_from = "bool")]
struct True;

impl TryFrom<bool> for True {
    type Error = &'static str;

    fn try_from(value: bool) -> Result<True, &'static str> {
        if value { Ok(True) } else { Err("false, expected true") }
    }
}

impl TryFrom<BranchFields> for Branch {
    type Error = String;

    fn try_from(fields: BranchFields) -> Result<Self, String> {
        // Empty in the type means "no such filter", so a written empty list has to be caught here.
        if fields.only.as_ref().is_some_and(Vec::is_empty) {
            return Err(
                "an empty \"only\" would hide the whole branch; leave it out to see everything".into()
            );
        }
        Ok(Self {
            source: one_source(
                fields.path,
                fields.glob,
                fields.layer,
                fields.image,
                fields.inputs,
                fields.host,
                fields.root,
            )?,
            at: fields.at.unwrap_or_else(|| PathBuf::from("/")),
            hide: fields.hide,
            only: fields.only.unwrap_or_default(),
            rules: fields.rules,
            symlinks: fields.symlinks,
            scope: fields.scope,
            frozen: fields.frozen,
            live: fields.live,
            whiteouts: fields.whiteouts,
            xattrs: fields.xattrs,
            override_stat: fields.override_stat,
            owner: fields.owner,
            perms: fields.perms,
            trusted: fields.trusted,
            access: fields.mode,
        })
    }
}

const SOURCES: &str = "path, glob, layer, image, inputs, host, root";

fn one_source(
    path: Option<PathBuf>,
    glob: Option<String>,
    layer: Option<String>,
    image: Option<String>,
    inputs: Option<String>,
    host: Option<HostPreset>,
    root: Option<True>,
) -> Result<BranchSource, String> {
    let said = [
        path.map(|path| ("path", BranchSource::Path(path))),
        glob.map(|pattern| ("glob", BranchSource::Glob(pattern))),
        layer.map(|layer| ("layer", BranchSource::Layer(layer))),
        image.map(|image| ("image", BranchSource::Image(image))),
        inputs.map(|text| ("inputs", inputs_source(text))),
        host.map(|HostPreset::Tools| ("host", BranchSource::HostTools)),
        root.map(|True| ("root", BranchSource::Root)),
    ];
    let mut said = said.into_iter().flatten();
    match (said.next(), said.next()) {
        (Some((_, source)), None) => Ok(source),
        (Some((first, _)), Some((second, _))) => {
            Err(format!("has both \"{first}\" and \"{second}\", expected one of {SOURCES}"))
        }
        (None, _) => Err(format!("has no source, expected one of {SOURCES}")),
    }
}

/// What begins as a digest is one; a file of such a name is `./b3:…`.
fn inputs_source(text: String) -> BranchSource {
    if text.starts_with("b3:") { BranchSource::StoredInputs(text) } else { BranchSource::Inputs(text.into()) }
}

impl Serialize for Branch {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let defaults = Self::new(BranchSource::HostTools);
        let mut object = serializer.serialize_struct("Branch", 16)?;
        match &self.source {
            BranchSource::Path(path) => object.serialize_field("path", path)?,
            BranchSource::Glob(pattern) => object.serialize_field("glob", pattern)?,
            BranchSource::Layer(layer) => object.serialize_field("layer", layer)?,
            BranchSource::Image(image) => object.serialize_field("image", image)?,
            BranchSource::Inputs(file) => object.serialize_field("inputs", file)?,
            BranchSource::StoredInputs(digest) => object.serialize_field("inputs", digest)?,
            BranchSource::HostTools => object.serialize_field("host", "tools")?,
            BranchSource::Root => object.serialize_field("root", &true)?,
        }
        if self.at != defaults.at {
            object.serialize_field("at", &self.at)?;
        }
        if !self.hide.is_empty() {
            object.serialize_field("hide", &self.hide)?;
        }
        if !self.only.is_empty() {
            object.serialize_field("only", &self.only)?;
        }
        if !self.rules.is_empty() {
            object.serialize_field("rules", &self.rules)?;
        }
        if self.symlinks != defaults.symlinks {
            object.serialize_field("symlinks", &self.symlinks)?;
        }
        if self.scope != defaults.scope {
            object.serialize_field("scope", &self.scope)?;
        }
        if self.frozen {
            object.serialize_field("frozen", &true)?;
        }
        if self.live != defaults.live {
            object.serialize_field("live", &self.live)?;
        }
        if self.whiteouts != defaults.whiteouts {
            object.serialize_field("whiteouts", &self.whiteouts)?;
        }
        if self.xattrs != defaults.xattrs {
            object.serialize_field("xattrs", &self.xattrs)?;
        }
        if self.override_stat {
            object.serialize_field("overrideStat", &true)?;
        }
        if self.owner != defaults.owner {
            object.serialize_field("owner", &self.owner)?;
        }
        if let Some(perms) = &self.perms {
            object.serialize_field("perms", perms)?;
        }
        if self.trusted {
            object.serialize_field("trusted", &true)?;
        }
        if self.access != defaults.access {
            object.serialize_field("mode", &self.access)?;
        }
        object.end()
    }
}
