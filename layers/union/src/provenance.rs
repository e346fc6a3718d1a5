//! Provenance: what lies behind a node in one of its branches, as far as it can be named.

use std::ffi::OsString;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use rustix::io::Errno;
use vfsrun_layers::{Digest, Kind};

use crate::branch::Content;
use crate::host::{self, HostBranch};
use crate::inputs::Input;
use crate::node::Node;
use crate::origin::{Origin, Place};
use crate::segment::Segment;
use crate::xattr::top;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Provenance {
    /// A file of the host, or a layer's digest or an image's file followed by a path in it. `None` for what exists because something lies
    /// below it, and for what is the program's own.
    pub path: Option<PathBuf>,
    /// Of the content. `None` for host files, whose content nobody has hashed.
    pub digest: Option<Digest>,
    /// A live file of the host, which may be another one at any time.
    pub live: bool,
}

impl Segment {
    /// The value of the attribute `user.vfsrun.` and `asked`; of a merged directory a line for each branch that has it. Errors: NODATA for what is not known or not to be told.
    pub(crate) fn tell_provenance(&self, node: &Node, asked: &[u8]) -> Result<Vec<u8>, Errno> {
        if !self.provenance {
            return Err(Errno::NODATA);
        }
        let origins = node.origins();
        let real = origins.iter().filter(|origin| !origin.synthetic);
        let files = || real.clone().map(|origin| self.provenance(node, origin));
        match asked {
            b"branch" => {
                let all = if real.clone().next().is_some() { 0 } else { origins.len() };
                let origins = real.clone().chain(origins.iter().take(all));
                lines(origins.map(|origin| self.branch(origin.branch).label.as_bytes().to_vec()))
            }
            b"path" => {
                let paths = files().collect::<Result<Vec<_>, _>>()?.into_iter();
                lines(paths.filter_map(|file| Some(file.path?.into_os_string().into_vec())))
            }
            b"digest" => {
                let digest = files().next().transpose()?.and_then(|file| file.digest);
                lines(digest.into_iter().map(|digest| digest.to_string().into_bytes()))
            }
            _ => Err(Errno::NODATA),
        }
    }

    /// Of a followed link: of what it leads to. Errors: the host file cannot be opened.
    pub(crate) fn provenance(&self, node: &Node, origin: &Origin) -> Result<Provenance, Errno> {
        match (&origin.place, &self.branch(origin.branch).content) {
            (Place::Alias(target), _) => match top(target) {
                Some(origin) => self.provenance(target, &origin),
                None => Ok(Provenance::default()),
            },
            (Place::Entry(Some(position)), Content::Layer(layer)) => {
                let entry = layer.layer.entry(*position);
                let content = layer.layer.content(*position).unwrap_or(*position);
                Ok(Provenance {
                    path: layer.digest.map(|digest| PathBuf::from(digest.to_string()).join(&entry.path)),
                    digest: match &layer.layer.entry(content).kind {
                        Kind::File { digest, .. } => Some(*digest),
                        _ => None,
                    },
                    live: false,
                })
            }
            (Place::Input(file), Content::Inputs(inputs)) => match inputs.index.input(*file) {
                Input::Blob { digest, .. } => {
                    Ok(Provenance { path: None, digest: Some(digest), live: false })
                }
                Input::Host(_) => self.host_file(node, origin),
            },
            _ => self.host_file(node, origin),
        }
    }

    fn host_file(&self, node: &Node, origin: &Origin) -> Result<Provenance, Errno> {
        let Some(fd) = self.open_origin(node, origin)? else { return Ok(Provenance::default()) };
        let mut path = name_of(&fd)?;
        let image = match &self.branch(origin.branch).content {
            Content::Host(HostBranch { image, .. }) => image.as_ref(),
            _ => None,
        };
        if let Some(image) = image {
            // Its mount is attached nowhere, so that paths in it start at its own root.
            path = name_of(image)?.join(path.strip_prefix("/").unwrap_or(&path));
        }
        Ok(Provenance { path: Some(path), digest: None, live: image.is_none() })
    }
}

/// As it is called in the mount namespace that it was opened in, whoever asks.
fn name_of(fd: &OwnedFd) -> Result<PathBuf, Errno> {
    let path = rustix::fs::readlink(host::magic_link(fd.as_fd()), Vec::new())?;
    Ok(OsString::from_vec(path.into_bytes()).into())
}

fn lines(values: impl Iterator<Item = Vec<u8>>) -> Result<Vec<u8>, Errno> {
    let values: Vec<_> = values.collect();
    if values.is_empty() { Err(Errno::NODATA) } else { Ok(values.join(&b'\n')) }
}
