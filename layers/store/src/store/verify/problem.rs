//! A problem: what a verification found wrong with one file of the store, who is affected, and what can be done.

use std::fmt;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::escape;

/// Something in the store that is not as it has to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    pub what: What,
    /// In the store's directory.
    pub file: PathBuf,
    pub fault: Fault,
    /// Layers that cannot be used because of it. Of a blob none when no layer has it.
    pub uses: Vec<Use>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// A manifest.
    Layer(Digest),
    Blob(Digest),
    Name(String),
    /// What the changes under this name were made to.
    Base(String),
    /// No file of a store.
    Stray,
}

/// A layer, and where it has the blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Use {
    pub layer: Digest,
    pub names: Vec<String>,
    /// Names in whose bases the layer is what was seen.
    pub contents_of: Vec<String>,
    /// The first file of the layer with this content.
    pub path: Option<PathBuf>,
    /// How many other files of the layer have it.
    pub more: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    Missing,
    /// Bytes.
    Size {
        wanted: u64,
        found: u64,
    },
    Content {
        found: Digest,
    },
    /// Neither 0444 nor what an interrupted capture leaves.
    Mode {
        found: u32,
    },
    /// A directory, a symlink or the like instead of a file.
    NoFile,
    /// Why it cannot be read or understood, as text.
    Unreadable(String),
    /// A name that points at a layer which is not there.
    Dangling {
        digest: Digest,
    },
    /// A name that holds no digest.
    NoDigest,
    /// Nothing of the store has such a name.
    Stray,
}

impl Problem {
    pub(super) fn of_file(file: PathBuf, fault: Fault) -> Problem {
        Problem { what: What::Stray, file, fault, uses: Vec::new() }
    }

    /// The layers that are affected: names, or the digest of one that has none.
    fn users(&self) -> Vec<String> {
        self.uses.iter().map(|used| format!("{}{}", used.named(), used.held_by())).collect()
    }

    /// What to do about it, as an instruction.
    pub fn remedy(&self) -> String {
        let one = self.uses.first().map(Use::named);
        match (&self.what, &self.fault, one) {
            (What::Stray, ..) => "it does not belong here: remove it".to_owned(),
            (What::Name(name), ..) => {
                format!("`vfsrun layer import {name} …` sets it again, `vfsrun layer rm {name}` removes it")
            }
            (What::Base(name), ..) => {
                format!("the layer is whole; `vfsrun layer tag {name} {name}` forgets what it was made to")
            }
            (_, Fault::Mode { .. }, _) => {
                format!("`chmod 0444 {}` in the store mends it", self.file.display())
            }
            (_, _, Some(_)) if let Some(name) = self.uses.iter().find_map(Use::contents_alone) => {
                format!(
                    "`vfsrun layer tag {name} {name}` forgets what it was made to, and `vfsrun layer gc` removes it then"
                )
            }
            (_, Fault::NoFile, Some(layer)) => format!(
                "remove it: `vfsrun layer import` of the same source mends the layer then, or `vfsrun layer rm {layer}` removes it"
            ),
            (_, _, Some(layer)) => format!(
                "`vfsrun layer import` of the same source mends it, or `vfsrun layer rm {layer}` removes the layer"
            ),
            (_, _, None) => "no layer has it: `vfsrun layer gc` removes it".to_owned(),
        }
    }
}

/// One line.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Layer(digest) => {
                write!(f, "layer {}: manifest {digest} {}", self.users().join(", "), self.fault)?;
            }
            What::Blob(digest) if self.uses.is_empty() => write!(f, "blob {digest} {}", self.fault)?,
            What::Blob(digest) => {
                let uses: Vec<_> = self.uses.iter().map(Use::to_string).collect();
                write!(f, "layer {}: blob {digest} {}", uses.join(", "), self.fault)?;
            }
            What::Name(name) => write!(f, "name {name} {}", self.fault)?,
            What::Base(name) => write!(f, "base of {name} {}", self.fault)?,
            What::Stray => write!(f, "{} {}", self.file.display(), self.fault)?,
        }
        write!(f, "; {}", self.remedy())
    }
}

impl Use {
    /// What the layer is asked for by.
    fn named(&self) -> String {
        self.names.first().cloned().unwrap_or_else(|| self.layer.to_string())
    }

    /// Of a layer without a name: which ones hold it.
    fn held_by(&self) -> String {
        self.contents_alone()
            .map(|_| format!(" (contents of {})", self.contents_of.join(", ")))
            .unwrap_or_default()
    }

    /// The name that holds a layer which has none.
    fn contents_alone(&self) -> Option<&String> {
        self.names.is_empty().then(|| self.contents_of.first())?
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = if self.names.is_empty() { self.layer.to_string() } else { self.names.join(" = ") };
        write!(f, "{names}{}", self.held_by())?;
        if let Some(path) = &self.path {
            write!(f, " {}", escape::shown_path(path))?;
        }
        match self.more {
            0 => Ok(()),
            more => write!(f, " and {more} more files"),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Missing => write!(f, "is missing"),
            Fault::Size { wanted, found } => {
                write!(f, "is damaged: {found} bytes long instead of {wanted}")
            }
            Fault::Content { found } => write!(f, "is damaged: it hashes to {found}"),
            Fault::Mode { found } => write!(f, "has mode {found:04o} instead of 0444"),
            Fault::NoFile => write!(f, "is no file"),
            Fault::Unreadable(reason) => write!(f, "cannot be used: {reason}"),
            Fault::Dangling { digest } => write!(f, "points at layer {digest}, which is not there"),
            Fault::NoDigest => write!(f, "is damaged: it holds no digest"),
            Fault::Stray => write!(f, "is no file of a layer store"),
        }
    }
}

impl Fault {
    pub(super) fn unreadable(error: &dyn std::error::Error) -> Fault {
        Fault::Unreadable(vfsrun_sys::chain(error))
    }

    /// A word for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            Fault::Missing => "missing",
            Fault::Size { .. } => "size",
            Fault::Content { .. } => "content",
            Fault::Mode { .. } => "mode",
            Fault::NoFile => "type",
            Fault::Unreadable(_) => "unreadable",
            Fault::Dangling { .. } => "dangling",
            Fault::NoDigest => "no-digest",
            Fault::Stray => "stray",
        }
    }
}

impl What {
    pub(super) fn order(&self) -> u8 {
        match self {
            What::Layer(_) => 0,
            What::Blob(_) => 1,
            What::Name(_) => 2,
            What::Base(_) => 3,
            What::Stray => 4,
        }
    }

    /// A word for programs.
    pub fn kind(&self) -> &'static str {
        ["manifest", "blob", "name", "base", "file"][usize::from(self.order())]
    }
}
