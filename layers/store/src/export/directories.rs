//! The Directory messages of an input root, each once, and the Tree message that has them all.
//!
//! A Tree is `Tree { root = 1, children = 2 }`. Its order is that of Bazel's and Buildbarn's uploads: a walk enters directories by
//! name and notes each one when it leaves it for the first time, and the Tree has them in reverse. So no directory comes before one
//! that it is in (`OutputDirectory.is_topologically_sorted`), and equal trees are equal bytes whoever made them.

use std::collections::HashMap;

use crate::protobuf::put_bytes;

/// Index of a message, in the order in which they were made: children first.
pub(super) type Index = usize;

#[derive(Default)]
pub(super) struct Directories {
    by_hash: HashMap<String, Index>,
    all: Vec<Directory>,
}

struct Directory {
    message: Vec<u8>,
    /// The directories in it, by name.
    below: Vec<Index>,
}

impl Directories {
    /// Notes the message of the digest `hash`, which has the directories `below`, by name. Equal ones are one.
    pub(super) fn add(&mut self, hash: &str, message: Vec<u8>, below: Vec<Index>) -> Index {
        *self.by_hash.entry(hash.to_owned()).or_insert_with(|| {
            self.all.push(Directory { message, below });
            self.all.len() - 1
        })
    }

    /// The Tree below `root`.
    pub(super) fn into_tree(mut self, root: Index) -> Vec<u8> {
        let order = self.left_in_order(root);
        let mut tree = Vec::new();
        for (position, index) in order.into_iter().rev().enumerate() {
            let field = if position == 0 { 1 } else { 2 };
            // It is needed no more, and all of them together may be large.
            put_bytes(&mut tree, field, &std::mem::take(&mut self.all[index].message));
        }
        tree
    }

    /// All that is reached from `root`, in the order in which a walk leaves them for the first time; `root` is the last.
    fn left_in_order(&self, root: Index) -> Vec<Index> {
        let mut order = Vec::with_capacity(self.all.len());
        let mut was_entered = vec![false; self.all.len()];
        // Each with how many of its directories were looked at.
        let mut open = vec![(root, 0)];
        was_entered[root] = true;
        while let Some((index, looked_at)) = open.last_mut() {
            match self.all[*index].below.get(*looked_at) {
                Some(&below) => {
                    *looked_at += 1;
                    if !was_entered[below] {
                        was_entered[below] = true;
                        open.push((below, 0));
                    }
                }
                None => {
                    order.push(*index);
                    open.pop();
                }
            }
        }
        order
    }
}
