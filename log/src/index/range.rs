//! Ordered iteration over an index.

use super::entry::Entry;
use super::tree::{Inner, Leaf, Node, read_cell};

/// Keys and entries in byte order of the keys. Made by [`super::KeyIndex::range_after`] and
/// [`super::KeyIndex::range_from`]; a step costs O(1) on average.
#[derive(Debug)]
pub struct Range<'a> {
    /// The inner nodes above the leaf, from the root down, and which child comes next.
    above: Vec<(&'a Inner, usize)>,
    leaf: &'a Leaf,
    next: usize,
}

impl<'a> Range<'a> {
    /// Starts at the first key that is not less than `from`, or greater when `exclusive`.
    pub(super) fn new(root: &'a Node, from: &[u8], exclusive: bool) -> Range<'a> {
        let mut above = Vec::new();
        let mut node = root;
        loop {
            match node {
                Node::Inner(inner) => {
                    let child = inner.child_for(from);
                    above.push((&**inner, child + 1));
                    node = &inner.children[child];
                }
                Node::Leaf(leaf) => {
                    let (index, found) = leaf.find(from);
                    let next = index + usize::from(found && exclusive);
                    return Range { above, leaf, next };
                }
            }
        }
    }

    /// Goes to the next leaf. False: there is none.
    fn advance(&mut self) -> bool {
        while let Some((inner, next)) = self.above.last_mut() {
            let Some(mut node) = inner.children.get(*next) else {
                self.above.pop();
                continue;
            };
            *next += 1;
            loop {
                match node {
                    Node::Inner(inner) => {
                        self.above.push((inner, 1));
                        node = &inner.children[0];
                    }
                    Node::Leaf(leaf) => {
                        (self.leaf, self.next) = (leaf, 0);
                        return true;
                    }
                }
            }
        }
        false
    }
}

impl<'a> Iterator for Range<'a> {
    type Item = (&'a [u8], Entry);

    fn next(&mut self) -> Option<Self::Item> {
        while self.next >= self.leaf.len() {
            if !self.advance() {
                return None;
            }
        }
        self.next += 1;
        Some(read_cell(self.leaf.cell(self.next - 1)))
    }
}
