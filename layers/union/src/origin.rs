//! An origin: where in one branch a node comes from. A merged directory has several, anything else has one.

use std::ffi::OsString;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::inputs::InputDir;
use crate::node::{Node, NodeTable, PathHash};

/// Position of a branch in the segment's description.
pub(crate) type BranchIndex = u16;

#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) branch: BranchIndex,
    pub(crate) place: Place,
    /// Not a name of the branch itself: made because something lies below (0755, root, mtime 1).
    pub(crate) synthetic: bool,
    /// Hash of what it is, as in [`crate::fingerprint::object`].
    pub(crate) object: u64,
}

/// Those of a node, as it keeps them. What nearly all have is one that takes little room.
pub(crate) enum Origins {
    /// One on the host, beneath that of the parent which has this position: branch and anchor are the same.
    Beneath {
        position: u16,
        object: u64,
    },
    Entry {
        branch: BranchIndex,
        entry: u32,
        object: u64,
    },
    Input {
        branch: BranchIndex,
        file: u32,
        object: u64,
    },
    Others(Box<Merged>),
}

pub(crate) struct Merged {
    origins: Box<[Origin]>,
    object: u64,
    /// Of the root, through which all others find it.
    table: Option<Arc<NodeTable>>,
}

/// Those of a node, as others see them.
pub(crate) enum OriginList<'a> {
    One([Origin; 1]),
    Others(&'a [Origin]),
}

#[derive(Clone, Debug)]
pub(crate) enum Place {
    /// On the way to the branch's place in the view.
    Above,
    /// On the host, at the node's own path seen from the anchor.
    Host(Arc<Anchor>),
    /// An entry of a layer or skeleton. `None` is a root directory that the manifest leaves out.
    Entry(Option<u32>),
    InputDir(InputDir),
    Input(u32),
    /// What a link of scope `view` leads to, or something below it.
    Alias(Arc<Node>),
    /// What a marker beside it says is deleted.
    Deleted,
    /// A name that a rule denies. Where it comes from is forgotten, so that nothing of it can be asked for.
    Denied,
}

/// From where on the host the names below a node are found. Paths are kept rather than descriptors: there may be
/// more followed links than descriptors, and a link that is retargeted must be seen.
#[derive(Debug)]
pub(crate) struct Anchor {
    /// Depth of the node that stands for `start`; the names of the nodes below it lead on from there.
    pub(crate) depth: usize,
    pub(crate) start: Start,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// The root of the branch.
    Root,
    /// A path beneath the root of the branch: the target of a link of scope `branch`.
    Beneath(PathBuf),
    /// What the link `name` in the directory `dir`, seen from `from`, leads to on the host.
    Link { from: Arc<Anchor>, dir: PathBuf, name: OsString },
}

impl Anchor {
    /// The path within the branch of what lies at `rest` below the anchor; `None` if the host's links lead outside.
    pub(crate) fn path_beneath(&self, rest: Option<&Path>) -> Option<PathBuf> {
        let rest = rest.unwrap_or(Path::new(""));
        match &self.start {
            Start::Root => Some(rest.to_owned()),
            Start::Beneath(path) if rest.as_os_str().is_empty() => Some(path.clone()),
            Start::Beneath(path) => Some(path.join(rest)),
            Start::Link { .. } => None,
        }
    }

    /// What stands above the low half of the inode numbers of names in `dir`, which is at the anchor or below it.
    pub(crate) fn high_half(&self, dir: &Node) -> u16 {
        if self.start == Start::Root {
            return 0;
        }
        let link: PathBuf = dir.path().iter().take(self.depth).collect();
        PathHash::of(&link).high_half()
    }
}

impl PartialEq for Anchor {
    fn eq(&self, other: &Anchor) -> bool {
        self.depth == other.depth && self.start == other.start
    }
}

impl Eq for Anchor {}

impl Place {
    /// Whether both lead to the same place by the same way. What an alias leads to may have another way by now.
    pub(crate) fn is_same(&self, other: &Place) -> bool {
        match (self, other) {
            (Place::Above, Place::Above)
            | (Place::Deleted, Place::Deleted)
            | (Place::Denied, Place::Denied) => true,
            (Place::Host(one), Place::Host(two)) => one == two,
            (Place::Entry(one), Place::Entry(two)) => one == two,
            (Place::InputDir(one), Place::InputDir(two)) => one == two,
            (Place::Input(one), Place::Input(two)) => one == two,
            _ => false,
        }
    }
}

impl Origin {
    pub(crate) fn at(branch: BranchIndex, place: Place) -> Origin {
        Origin { branch, place, synthetic: false, object: 0 }
    }
}

impl Origins {
    /// `object` is that of all together.
    pub(crate) fn new(
        origins: Vec<Origin>,
        object: u64,
        parent: Option<&Node>,
        table: &Arc<NodeTable>,
    ) -> Origins {
        let Some(parent) = parent else {
            let table = Some(Arc::clone(table));
            return Origins::Others(Box::new(Merged { origins: origins.into(), object, table }));
        };
        if let [Origin { branch, ref place, synthetic: false, object }] = origins[..] {
            match *place {
                Place::Host(ref anchor) => {
                    if let Some(position) = position(parent, branch, anchor) {
                        return Origins::Beneath { position, object };
                    }
                }
                Place::Entry(Some(entry)) => return Origins::Entry { branch, entry, object },
                Place::Input(file) => return Origins::Input { branch, file, object },
                _ => {}
            }
        }
        Origins::Others(Box::new(Merged { origins: origins.into(), object, table: None }))
    }

    /// Of a node that has this parent.
    pub(crate) fn list<'a>(&'a self, parent: Option<&'a Arc<Node>>) -> OriginList<'a> {
        OriginList::One([match *self {
            Origins::Beneath { position, object } => {
                let (branch, anchor) = above(position, parent);
                Origin { object, ..Origin::at(branch, Place::Host(Arc::clone(anchor))) }
            }
            Origins::Entry { branch, entry, object } => {
                Origin { object, ..Origin::at(branch, Place::Entry(Some(entry))) }
            }
            Origins::Input { branch, file, object } => {
                Origin { object, ..Origin::at(branch, Place::Input(file)) }
            }
            Origins::Others(ref merged) => return OriginList::Others(&merged.origins),
        }])
    }

    /// Of the root.
    pub(crate) fn table(&self) -> Option<&Arc<NodeTable>> {
        match self {
            Origins::Others(merged) => merged.table.as_ref(),
            _ => None,
        }
    }

    /// That of all together, where it is kept.
    pub(crate) fn object(&self) -> Option<u64> {
        match self {
            Origins::Others(merged) => Some(merged.object),
            _ => None,
        }
    }
}

fn position(parent: &Node, branch: BranchIndex, anchor: &Arc<Anchor>) -> Option<u16> {
    let is_it = |origin: &Origin| {
        origin.branch == branch && matches!(&origin.place, Place::Host(other) if Arc::ptr_eq(other, anchor))
    };
    parent.origins().iter().position(is_it)?.try_into().ok()
}

/// Branch and anchor of what lies beneath the parent's origin at that position.
fn above(mut position: u16, mut parent: Option<&Arc<Node>>) -> (BranchIndex, &Arc<Anchor>) {
    loop {
        let node = parent.expect("only what has a parent lies beneath it");
        match &node.kept_origins {
            Origins::Beneath { position: next, .. } => (position, parent) = (*next, node.parent()),
            Origins::Others(merged) => match &merged.origins[usize::from(position)] {
                Origin { branch, place: Place::Host(anchor), .. } => return (*branch, anchor),
                _ => unreachable!("it was on the host when this was made, and never changes"),
            },
            Origins::Entry { .. } | Origins::Input { .. } => unreachable!("neither is on the host"),
        }
    }
}

impl Deref for OriginList<'_> {
    type Target = [Origin];

    fn deref(&self) -> &[Origin] {
        match self {
            OriginList::One(origin) => origin,
            OriginList::Others(origins) => origins,
        }
    }
}
