//! The messages of an input root, read as the Remote Execution API defines them in their canonical form; all else is refused.
//!
//! What they hold is yielded and not gathered, so that a message costs no more memory than its bytes.

use std::collections::HashMap;

use thiserror::Error;

use crate::check;
use crate::digest_function::DigestFunction;
use crate::protobuf::{Fields, Malformed, Value};

/// Why a message is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MessageFault {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("a text in it is no UTF-8")]
    Text,
    #[error("the name {0:?} in it is empty, '.', '..', too long, or has a slash or a NUL byte")]
    Name(String),
    #[error("{0:?} in it does not sort behind the name before it")]
    Order(String),
    #[error("{0:?} in it has no digest of 64 lower-case hexadecimal digits and a size")]
    Digest(String),
    #[error("the mode {0:o} in it has more than permission bits")]
    Mode(u64),
    #[error("a time in it is out of range")]
    Time,
    #[error("it has no root")]
    NoRoot,
    #[error("it has more than {0} directories")]
    TooManyDirectories(u64),
}

/// What a Directory message holds, in its order.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part<'a> {
    Node(Node<'a>),
    /// The directory's own.
    Properties(Properties),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) struct Node<'a> {
    pub name: &'a str,
    pub kind: NodeKind<'a>,
    pub properties: Properties,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum NodeKind<'a> {
    File { content: Sum<'a>, executable: bool },
    Directory { message: Sum<'a> },
    Symlink { target: &'a str },
}

/// A Digest message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sum<'a> {
    /// Hexadecimal digits.
    pub hash: &'a str,
    /// Bytes.
    pub size: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Properties {
    /// Seconds and nanoseconds since the epoch.
    pub mtime: Option<(i64, u32)>,
    /// Permission bits.
    pub mode: Option<u32>,
    /// How many there are that only their maker understands.
    pub others: u64,
}

/// Fields of a Directory message.
const FILES: u64 = 1;
const DIRECTORIES: u64 = 2;
const SYMLINKS: u64 = 3;

/// Of a Timestamp message: the years 1 to 9999.
const SECONDS: std::ops::RangeInclusive<i64> = -62_135_596_800..=253_402_300_799;

/// The parts of a Directory message. Names of one kind sort; that no name is of two kinds is not looked at.
pub(super) fn parts(message: &[u8]) -> impl Iterator<Item = Result<Part<'_>, MessageFault>> {
    let mut last = (0, "");
    Fields::of(message, &[FILES, DIRECTORIES, SYMLINKS]).map(move |field| match field? {
        (kind @ FILES..=SYMLINKS, Value::Bytes(node)) => {
            let node = Node::read(kind, node)?;
            if last.0 == kind && last.1 >= node.name {
                return Err(MessageFault::Order(node.name.to_owned()));
            }
            last = (kind, node.name);
            Ok(Part::Node(node))
        }
        (5, Value::Bytes(properties)) => Ok(Part::Properties(Properties::read(properties)?)),
        (field, _) => Err(Malformed::Field(field).into()),
    })
}

/// A Tree message: the root, and all other directories by their digests.
#[derive(Debug)]
pub(super) struct Tree<'a> {
    pub root: &'a [u8],
    pub children: HashMap<String, &'a [u8]>,
}

impl<'a> Tree<'a> {
    /// The directories are not looked at, nor whether they are needed.
    pub(super) fn read(
        message: &'a [u8],
        function: DigestFunction,
        most: u64,
    ) -> Result<Tree<'a>, MessageFault> {
        let mut root = None;
        let mut children = HashMap::new();
        for (index, field) in (0..).zip(Fields::of(message, &[2])) {
            if index > most {
                return Err(MessageFault::TooManyDirectories(most));
            }
            match field? {
                (1, Value::Bytes(directory)) => root = Some(directory),
                (2, Value::Bytes(directory)) => drop(children.insert(function.of(directory), directory)),
                (field, _) => return Err(Malformed::Field(field).into()),
            }
        }
        Ok(Tree { root: root.ok_or(MessageFault::NoRoot)?, children })
    }
}

impl<'a> Node<'a> {
    fn read(kind: u64, message: &'a [u8]) -> Result<Node<'a>, MessageFault> {
        let (mut name, mut second, mut executable) = ("", &[][..], false);
        let mut properties = Properties::default();
        for field in Fields::of(message, &[]) {
            match (kind, field?) {
                (_, (1, Value::Bytes(bytes))) => name = text(bytes)?,
                (_, (2, Value::Bytes(bytes))) => second = bytes,
                (FILES, (4, Value::Number(1))) => executable = true,
                (FILES, (6, Value::Bytes(bytes))) | (SYMLINKS, (4, Value::Bytes(bytes))) => {
                    properties = Properties::read(bytes)?;
                }
                (_, (field, _)) => return Err(Malformed::Field(field).into()),
            }
        }
        if name.is_empty() || name.contains('/') || check::path(name.as_ref()).is_err() {
            return Err(MessageFault::Name(name.to_owned()));
        }
        let digest = || Sum::read(second)?.ok_or_else(|| MessageFault::Digest(name.to_owned()));
        let kind = match kind {
            FILES => NodeKind::File { content: digest()?, executable },
            DIRECTORIES => NodeKind::Directory { message: digest()? },
            _ => NodeKind::Symlink { target: text(second)? },
        };
        Ok(Node { name, kind, properties })
    }
}

impl<'a> Sum<'a> {
    /// `None`: it is no digest of these functions.
    fn read(message: &'a [u8]) -> Result<Option<Sum<'a>>, MessageFault> {
        let mut sum = Sum { hash: "", size: 0 };
        for field in Fields::of(message, &[]) {
            match field? {
                (1, Value::Bytes(hash)) => sum.hash = text(hash)?,
                (2, Value::Number(size)) => sum.size = size,
                (field, _) => return Err(Malformed::Field(field).into()),
            }
        }
        Ok((is_hash(sum.hash) && sum.size <= i64::MAX as u64).then_some(sum))
    }
}

/// What both functions give.
pub(super) fn is_hash(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

impl Properties {
    fn read(message: &[u8]) -> Result<Properties, MessageFault> {
        let mut properties = Properties::default();
        for field in Fields::of(message, &[1]) {
            match field? {
                (1, Value::Bytes(_)) => properties.others += 1,
                (2, Value::Bytes(time)) => properties.mtime = Some(timestamp(time)?),
                (3, Value::Bytes(mode)) => properties.mode = Some(wrapped_mode(mode)?),
                (field, _) => return Err(Malformed::Field(field).into()),
            }
        }
        Ok(properties)
    }
}

fn timestamp(message: &[u8]) -> Result<(i64, u32), MessageFault> {
    let (mut seconds, mut nanoseconds) = (0, 0);
    for field in Fields::of(message, &[]) {
        match field? {
            // Negative numbers are their two's complement in 64 bits.
            (1, Value::Number(number)) => seconds = number.cast_signed(),
            (2, Value::Number(number)) => nanoseconds = number,
            (field, _) => return Err(Malformed::Field(field).into()),
        }
    }
    match u32::try_from(nanoseconds) {
        Ok(nanoseconds @ ..1_000_000_000) if SECONDS.contains(&seconds) => Ok((seconds, nanoseconds)),
        _ => Err(MessageFault::Time),
    }
}

fn wrapped_mode(message: &[u8]) -> Result<u32, MessageFault> {
    let mut mode = 0;
    for field in Fields::of(message, &[]) {
        match field? {
            (1, Value::Number(number)) => mode = number,
            (field, _) => return Err(Malformed::Field(field).into()),
        }
    }
    match u32::try_from(mode) {
        Ok(mode @ ..=0o7777) => Ok(mode),
        _ => Err(MessageFault::Mode(mode)),
    }
}

fn text(bytes: &[u8]) -> Result<&str, MessageFault> {
    std::str::from_utf8(bytes).map_err(|_| MessageFault::Text)
}
