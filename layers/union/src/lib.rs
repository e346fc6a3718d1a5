//! A segment: branches merged into one read-only tree. A library without FUSE; `vfsrun-fuse` serves it.
//!
//! [`Segment::build`] opens what a [`SegmentSpec`] describes, with its descriptors a [`Described`]; [`Segment::lookup`], [`Segment::list`] and
//! [`Segment::open`] answer for one merged tree; [`Segment::is_current`] says whether the answers still hold,
//! and [`Segment::bring_up_to_date`] which of them to forget; after [`Segment::settle`] both are cheap.

#![forbid(unsafe_code)]

mod acl;
mod ahead;
pub mod attr;
mod branch;
pub mod context;
pub mod describe;
pub mod error;
pub mod explain;
pub mod fault;
mod fingerprint;
mod follow;
mod hard_link;
mod host;
mod identity;
pub mod inode;
mod input_text;
pub mod inputs;
mod judge;
mod kept_name;
mod layer;
mod list;
mod mend;
mod merge;
mod moment;
mod mount_table;
mod names;
pub mod node;
mod only;
mod origin;
mod owners;
mod priority;
mod provenance;
mod resolve;
pub mod rules;
pub mod segment;
mod settle;
mod slow;
mod space;
pub mod spot;
pub mod stack;
mod sweep;
mod trust;
mod visits;
mod watch;
mod xattr;
mod xattr_rule;

pub use ahead::Glimpse;
pub use attr::{Attr, DirEntry, FileKind, Time};
pub use context::{Context, LayerCache};
pub use describe::SegmentSpec;
pub use error::SegmentError;
pub use explain::{Account, Explanation, Fate};
pub use fault::{Fault, FaultReason};
pub use identity::Described;
pub use inode::InodeTable;
pub use inputs::InputsError;
pub use mend::{Forget, OwnedForget};
pub use node::{Node, PathHash, SegmentId};
pub use provenance::Provenance;
pub use rules::PatternError;
pub use rustix::io::Errno;
pub use segment::{Lookups, Segment};
pub use settle::Effort;
pub use slow::{Slowness, may_be_slow};
pub use space::Space;
pub use visits::Changes;
pub use watch::{can_watch, own_mounts};
