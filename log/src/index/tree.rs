//! A B+tree of packed pages (Comer, "The Ubiquitous B-Tree", 1979), with separators cut to the
//! shortest string that still separates (Bayer and Unterauer, "Prefix B-Trees", 1977).
//!
//! A leaf's cell is a packed entry followed by its key. An inner node has one separator between
//! each two children: child `i` holds the keys `>= separator i - 1` and `< separator i`. All leaves
//! have the same depth, and no node but the root is empty.

use ironring_core::limits::KEY_BYTES_MAX;

use super::entry::{Entry, PACKED_BYTES_MAX, Packed, packed_bytes, unpack};
use super::page::{CellKey, Ledger, Page, SLOT_BYTES, shared_bytes};

/// A leaf with more bytes of cells and slots than this is split. With the allocator's header a
/// full leaf is one 4 KiB block.
const LEAF_BYTES_MAX: usize = 4096 - 8;
/// The same for an inner node's separators and children.
const INNER_BYTES_MAX: usize = 4096 - 8;
/// A node with less than this looks for a neighbour to merge with.
const SPARSE_BYTES: usize = LEAF_BYTES_MAX / 4;
/// Neighbours are merged when they have no more than this together, so that a merged node does
/// not soon split again.
const MERGED_BYTES_MAX: usize = LEAF_BYTES_MAX / 4 * 3;
/// What a child costs its parent besides the separator.
const CHILD_BYTES: usize = size_of::<Node>();
/// Children are made room for in steps of this many.
const CHILDREN_STEP: usize = 8;

const CELL_BYTES_MAX: usize = KEY_BYTES_MAX + PACKED_BYTES_MAX + SLOT_BYTES;
// A leaf that overflows by one cell still splits into two that fit: the left one takes at most
// 7/8 of a leaf, the right one what is left of the sum, less one cell that did not fit left.
const _: () = assert!(LEAF_BYTES_MAX / 8 + 2 * CELL_BYTES_MAX <= LEAF_BYTES_MAX);
const _: () = assert!(LEAF_BYTES_MAX.div_ceil(2) + CELL_BYTES_MAX * 3 / 2 <= LEAF_BYTES_MAX);
const _: () = assert!(LEAF_BYTES_MAX + CELL_BYTES_MAX <= u16::MAX as usize);

/// The cells of a leaf: a packed entry, then the key.
#[derive(Debug)]
pub(super) struct KeyedEntry;

impl CellKey for KeyedEntry {
    fn key(cell: &[u8]) -> &[u8] {
        &cell[packed_bytes(cell[0])..]
    }
}

/// The cells of an inner node: nothing but a separator.
#[derive(Debug)]
pub(super) struct Separator;

impl CellKey for Separator {
    fn key(cell: &[u8]) -> &[u8] {
        cell
    }
}

/// A leaf: keys and what is held for them.
pub(super) type Leaf = Page<KeyedEntry>;

/// A subtree.
#[derive(Debug)]
pub(super) enum Node {
    Leaf(Leaf),
    Inner(Box<Inner>),
}

/// Separators and the children between them.
#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) separators: Page<Separator>,
    pub(super) children: Vec<Node>,
}

/// The right half of a node that was split.
pub(super) struct Split {
    separator: Vec<u8>,
    right: Node,
}

/// Key and entry in a leaf's cell.
pub(super) fn read_cell(cell: &[u8]) -> (&[u8], Entry) {
    (KeyedEntry::key(cell), unpack(cell))
}

/// Where to cut a node that grew too large at `index` of `len`: a run of ascending (descending)
/// keys leaves full nodes behind, instead of half-empty ones.
fn left_bytes(index: usize, len: usize, content: usize, max: usize) -> usize {
    if index + 1 == len {
        max / 8 * 7
    } else if index == 0 {
        max / 8
    } else {
        content / 2
    }
}

impl Node {
    /// The leaf that holds `key` if any does.
    pub(super) fn leaf_for(&self, key: &[u8]) -> &Leaf {
        let mut node = self;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf,
                Node::Inner(inner) => node = &inner.children[inner.child_for(key)],
            }
        }
    }

    /// The same, to change a cell in place.
    pub(super) fn leaf_for_mut(&mut self, key: &[u8]) -> &mut Leaf {
        let mut node = self;
        loop {
            match node {
                Node::Leaf(leaf) => return leaf,
                Node::Inner(inner) => {
                    let child = inner.child_for(key);
                    node = &mut inner.children[child];
                }
            }
        }
    }

    /// Inserts or replaces. Returns what was replaced, and the right half when the node split.
    pub(super) fn insert(
        &mut self,
        key: &[u8],
        packed: &Packed,
        ledger: &mut Ledger,
    ) -> (Option<Entry>, Option<Split>) {
        match self {
            Node::Leaf(leaf) => insert_into_leaf(leaf, key, packed, ledger),
            Node::Inner(inner) => {
                let child = inner.child_for(key);
                let (old, split) = inner.children[child].insert(key, packed, ledger);
                (old, split.and_then(|split| inner.adopt(child, split, ledger)))
            }
        }
    }

    /// Puts a new root above this one and the half split off from it.
    pub(super) fn grow(&mut self, split: Split, ledger: &mut Ledger) {
        let mut inner = Box::<Inner>::default();
        ledger.allocated(size_of::<Inner>());
        inner.separators.insert(0, &[], &split.separator, ledger);
        inner.reserve_child(ledger);
        inner.children.push(std::mem::replace(self, Node::Leaf(Leaf::default())));
        inner.children.push(split.right);
        *self = Node::Inner(inner);
    }

    /// Removes a key. The node may be sparse or empty afterwards.
    pub(super) fn remove(&mut self, key: &[u8], ledger: &mut Ledger) -> Option<Entry> {
        match self {
            Node::Leaf(leaf) => {
                let (index, found) = leaf.find(key);
                found.then(|| {
                    let old = unpack(leaf.cell(index));
                    leaf.remove(index, ledger);
                    old
                })
            }
            Node::Inner(inner) => {
                let child = inner.child_for(key);
                let old = inner.children[child].remove(key, ledger)?;
                if inner.children[child].weight() < SPARSE_BYTES {
                    inner.fold(child, ledger);
                }
                Some(old)
            }
        }
    }

    /// Drops roots that have a single child left.
    pub(super) fn flatten(&mut self, ledger: &mut Ledger) {
        while let Node::Inner(inner) = self
            && inner.children.len() <= 1
        {
            let only = inner.children.pop().unwrap_or(Node::Leaf(Leaf::default()));
            let Node::Inner(old) = std::mem::replace(self, only) else { return };
            old.discard(ledger);
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.len() == 0,
            Node::Inner(inner) => inner.children.is_empty(),
        }
    }

    fn weight(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.content_bytes(),
            Node::Inner(inner) => inner.weight(),
        }
    }

    fn discard(self, ledger: &mut Ledger) {
        match self {
            Node::Leaf(leaf) => leaf.discard(ledger),
            Node::Inner(inner) => inner.discard(ledger),
        }
    }

    /// Appends the right neighbour, which `separator` divided from this node.
    fn merge(&mut self, separator: &[u8], right: Node, ledger: &mut Ledger) {
        match (self, right) {
            (Node::Leaf(left), Node::Leaf(right)) => left.append(right, ledger),
            (Node::Inner(left), Node::Inner(mut right)) => {
                left.separators.insert(left.separators.len(), &[], separator, ledger);
                left.separators.append(std::mem::take(&mut right.separators), ledger);
                let mut moved = std::mem::take(&mut right.children);
                ledger.freed(moved.capacity() * CHILD_BYTES);
                left.resize_children(left.children.len() + moved.len(), ledger);
                left.children.append(&mut moved);
                right.discard(ledger);
            }
            _ => unreachable!("all children of a node have the same depth"),
        }
    }
}

fn insert_into_leaf(
    leaf: &mut Leaf,
    key: &[u8],
    packed: &Packed,
    ledger: &mut Ledger,
) -> (Option<Entry>, Option<Split>) {
    let (index, found) = leaf.find(key);
    let mut old = None;
    if found {
        let cell = leaf.cell_mut(index);
        old = Some(unpack(cell));
        if packed_bytes(cell[0]) == packed.as_bytes().len() {
            cell[..packed.as_bytes().len()].copy_from_slice(packed.as_bytes());
            return (old, None);
        }
        leaf.remove(index, ledger);
    }
    leaf.insert(index, packed.as_bytes(), key, ledger);
    let content = leaf.content_bytes();
    if content <= LEAF_BYTES_MAX {
        return (old, None);
    }
    let cut = leaf.cells_within(left_bytes(index, leaf.len(), content, LEAF_BYTES_MAX), 0);
    let right = leaf.split_off(cut, ledger);
    let separator = shortest_separator(leaf.key(cut - 1), right.key(0)).to_vec();
    (old, Some(Split { separator, right: Node::Leaf(right) }))
}

/// The shortest prefix of `right` that is greater than `left`.
fn shortest_separator<'a>(left: &[u8], right: &'a [u8]) -> &'a [u8] {
    &right[..shared_bytes(left, right) + 1]
}

impl Inner {
    pub(super) fn child_for(&self, key: &[u8]) -> usize {
        let (index, found) = self.separators.find(key);
        index + usize::from(found)
    }

    fn weight(&self) -> usize {
        self.separators.content_bytes() + self.children.len() * CHILD_BYTES
    }

    /// Takes in the right half of child `child`; splits when that is one too many.
    fn adopt(&mut self, child: usize, split: Split, ledger: &mut Ledger) -> Option<Split> {
        self.separators.insert(child, &[], &split.separator, ledger);
        self.reserve_child(ledger);
        self.children.insert(child + 1, split.right);
        if self.weight() <= INNER_BYTES_MAX {
            return None;
        }
        let content = self.weight();
        let left = left_bytes(child, self.separators.len(), content, INNER_BYTES_MAX);
        // The separator at the cut moves up: it divides the halves.
        let cut = self.separators.cells_within(left, CHILD_BYTES);
        let mut right = Box::<Inner>::default();
        ledger.allocated(size_of::<Inner>());
        right.separators = self.separators.split_off(cut, ledger);
        let separator = right.separators.cell(0).to_vec();
        right.separators.remove(0, ledger);
        right.resize_children(self.children.len() - (cut + 1), ledger);
        right.children.extend(self.children.drain(cut + 1..));
        self.resize_children(cut + 1, ledger);
        Some(Split { separator, right: Node::Inner(right) })
    }

    /// Removes the sparse child if it is empty; merges it with a neighbour if both fit in one.
    fn fold(&mut self, child: usize, ledger: &mut Ledger) {
        if self.children[child].is_empty() {
            self.children.remove(child).discard(ledger);
            if self.separators.len() > 0 {
                self.separators.remove(child.saturating_sub(1), ledger);
            }
            self.resize_children(self.children.len(), ledger);
            return;
        }
        let first_of_pair = [Some(child), child.checked_sub(1)];
        for left in first_of_pair.into_iter().flatten() {
            if left + 1 >= self.children.len() {
                continue;
            }
            let together = self.children[left].weight()
                + self.children[left + 1].weight()
                + self.separators.cell(left).len();
            if together <= MERGED_BYTES_MAX {
                let right = self.children.remove(left + 1);
                self.children[left].merge(self.separators.cell(left), right, ledger);
                self.separators.remove(left, ledger);
                self.resize_children(self.children.len(), ledger);
                return;
            }
        }
    }

    fn reserve_child(&mut self, ledger: &mut Ledger) {
        if self.children.len() == self.children.capacity() {
            self.resize_children(self.children.len() + 1, ledger);
        }
    }

    /// Makes room for `count` children, and gives back what is far above that.
    fn resize_children(&mut self, count: usize, ledger: &mut Ledger) {
        let wanted = count.next_multiple_of(CHILDREN_STEP);
        let before = self.children.capacity();
        if before < wanted {
            self.children.reserve_exact(wanted - self.children.len());
        } else if before >= wanted + 2 * CHILDREN_STEP {
            self.children.shrink_to(wanted);
        }
        ledger.freed(before * CHILD_BYTES);
        ledger.allocated(self.children.capacity() * CHILD_BYTES);
    }

    fn discard(self, ledger: &mut Ledger) {
        ledger.freed(self.children.capacity() * CHILD_BYTES);
        ledger.freed(size_of::<Inner>());
        self.separators.discard(ledger);
        debug_assert!(self.children.is_empty(), "children are moved out first");
    }
}
