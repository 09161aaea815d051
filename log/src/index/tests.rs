//! Model tests of the whole index, and of the tree's invariants after every kind of change.

use std::collections::BTreeMap;

use ironring_core::prng::Prng;
use ironring_core::{Offset, SegmentId, WallTime};
use proptest::prelude::*;

use super::tree::Inner;
use super::*;
use crate::allocation::block_bytes;
use crate::api::Location;

fn entry(seed: u64) -> Entry {
    let mut prng = Prng::new(seed);
    // Widths of all sizes, so that replacing an entry changes the size of its cell.
    let mut next = || prng.next_u64() >> prng.below(64);
    Entry {
        location: Location {
            segment: SegmentId(next() as u32),
            pos: next() as u32,
            len: next() as u32,
        },
        version: Offset(next()),
        expires: WallTime(if seed.is_multiple_of(3) { next() } else { 0 }),
        flags: if seed.is_multiple_of(5) { next() as u8 } else { 0 },
    }
}

/// Checks order, bounds, depth, emptiness and the ledger. O(n).
fn check(index: &KeyIndex) {
    fn depth(node: &Node) -> usize {
        match node {
            Node::Leaf(_) => 0,
            Node::Inner(inner) => 1 + depth(&inner.children[0]),
        }
    }
    fn walk(
        node: &Node,
        depth_left: usize,
        low: Option<&[u8]>,
        high: Option<&[u8]>,
        keys: &mut usize,
        bytes: &mut usize,
    ) {
        match node {
            Node::Leaf(leaf) => {
                assert_eq!(depth_left, 0, "all leaves have the same depth");
                assert!(leaf.content_bytes() <= 4088);
                *bytes += block_bytes(leaf.buffer_bytes());
                *keys += leaf.len();
                for i in 0..leaf.len() {
                    let key = leaf.key(i);
                    assert!(low.is_none_or(|low| low <= key));
                    assert!(high.is_none_or(|high| key < high));
                    assert!(i == 0 || leaf.key(i - 1) < key);
                }
            }
            Node::Inner(inner) => {
                let children = inner.children.len();
                assert_eq!(inner.separators.len() + 1, children);
                *bytes += block_bytes(size_of::<Inner>())
                    + block_bytes(inner.separators.buffer_bytes())
                    + block_bytes(inner.children.capacity() * size_of::<Node>());
                for (i, child) in inner.children.iter().enumerate() {
                    match child {
                        Node::Leaf(leaf) => assert!(leaf.len() > 0, "no empty leaf"),
                        Node::Inner(inner) => assert!(!inner.children.is_empty()),
                    }
                    let low = if i == 0 { low } else { Some(inner.separators.cell(i - 1)) };
                    let high =
                        if i + 1 == children { high } else { Some(inner.separators.cell(i)) };
                    walk(child, depth_left - 1, low, high, keys, bytes);
                }
            }
        }
    }
    let (mut keys, mut bytes) = (0, 0);
    walk(&index.root, depth(&index.root), None, None, &mut keys, &mut bytes);
    assert_eq!(keys, index.len());
    assert_eq!(bytes, index.ledger.bytes(), "the ledger is what is allocated");
    if let Node::Inner(root) = &index.root {
        assert!(root.children.len() > 1, "a root with one child is dropped");
    }
}

fn assert_same(index: &KeyIndex, model: &BTreeMap<Vec<u8>, Entry>) {
    check(index);
    assert_eq!(index.len(), model.len());
    assert!(index.range_after(None).eq(model.iter().map(|(key, entry)| (key.as_slice(), *entry))));
}

#[derive(Clone, Debug)]
enum Op {
    Insert(Vec<u8>, u64),
    Update(Vec<u8>, u64),
    Remove(Vec<u8>),
    Get(Vec<u8>),
    After(Vec<u8>),
    From(Vec<u8>),
    /// Removes this many keys, beginning at the first one not less.
    RemoveRun(Vec<u8>, usize),
    /// Inserts this many keys that begin with these bytes, ascending or descending.
    InsertRun(Vec<u8>, u16, bool),
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => prop::collection::vec(prop::sample::select(vec![0u8, 1, b'a', 0xFE, 0xFF]), 0..6),
        2 => prop::collection::vec(any::<u8>(), 0..40),
        1 => (prop::sample::select(vec![0u8, b'x', 0xFF]), 0..=KEY_BYTES_MAX)
            .prop_map(|(byte, len)| vec![byte; len]),
        1 => (any::<u8>(), 1000..KEY_BYTES_MAX).prop_map(|(last, len)| {
            let mut key = vec![b'p'; len];
            key.push(last);
            key
        }),
    ]
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        6 => (key(), any::<u64>()).prop_map(|(k, seed)| Op::Insert(k, seed)),
        2 => (key(), any::<u64>()).prop_map(|(k, seed)| Op::Update(k, seed)),
        3 => key().prop_map(Op::Remove),
        2 => key().prop_map(Op::Get),
        1 => key().prop_map(Op::After),
        1 => key().prop_map(Op::From),
        1 => (key(), 1..300usize).prop_map(|(k, n)| Op::RemoveRun(k, n)),
        1 => (key(), 1..300u16, any::<bool>()).prop_map(|(k, n, up)| Op::InsertRun(k, n, up)),
    ]
}

fn apply(op: &Op, index: &mut KeyIndex, model: &mut BTreeMap<Vec<u8>, Entry>) {
    match op {
        Op::Insert(key, seed) => {
            let old = model.insert(key.clone(), entry(*seed));
            assert_eq!(index.insert(key, entry(*seed)), old);
        }
        Op::Update(key, seed) => {
            let known = model.get_mut(key).map(|e| *e = entry(*seed)).is_some();
            assert_eq!(index.update(key, |e| *e = entry(*seed)), known);
        }
        Op::Remove(key) => assert_eq!(index.remove(key), model.remove(key)),
        Op::Get(key) => assert_eq!(index.get(key), model.get(key).copied()),
        Op::After(key) => {
            let expected = model.iter().filter(|(k, _)| *k > key).map(|(k, e)| (&k[..], *e));
            assert!(index.range_after(Some(key)).eq(expected));
        }
        Op::From(key) => {
            let expected = model.range(key.clone()..).map(|(k, e)| (&k[..], *e));
            assert!(index.range_from(key).eq(expected));
        }
        Op::RemoveRun(from, count) => {
            let run: Vec<Vec<u8>> =
                model.range(from.clone()..).take(*count).map(|(k, _)| k.clone()).collect();
            for key in run {
                assert_eq!(index.remove(&key), model.remove(&key));
            }
        }
        Op::InsertRun(prefix, count, ascending) => {
            let prefix = &prefix[..prefix.len().min(KEY_BYTES_MAX - 2)];
            for i in 0..*count {
                let number = if *ascending { i } else { u16::MAX - i };
                let key = [prefix, &number.to_be_bytes()].concat();
                let old = model.insert(key.clone(), entry(u64::from(i)));
                assert_eq!(index.insert(&key, entry(u64::from(i))), old);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn behaves_like_a_btree_map(ops in prop::collection::vec(op(), 1..200)) {
        let (mut index, mut model) = (KeyIndex::new(), BTreeMap::new());
        for op in &ops {
            apply(op, &mut index, &mut model);
            check(&index);
        }
        assert_same(&index, &model);
        for key in model.keys() {
            assert_eq!(index.get(key), model.get(key).copied());
        }
    }

    #[test]
    fn the_same_operations_make_the_same_tree(ops in prop::collection::vec(op(), 1..100)) {
        let build = || {
            let (mut index, mut model) = (KeyIndex::new(), BTreeMap::new());
            ops.iter().for_each(|op| apply(op, &mut index, &mut model));
            // Free space is part of a page's picture: it too must not depend on anything else.
            format!("{index:?}")
        };
        assert_eq!(build(), build());
    }
}

fn shuffled(count: usize, key_bytes: usize, seed: u64) -> Vec<Vec<u8>> {
    let mut prng = Prng::new(seed);
    let mut keys = Vec::with_capacity(count);
    for _ in 0..count {
        let mut key = vec![0; key_bytes];
        prng.fill(&mut key);
        keys.push(key);
    }
    keys
}

#[test]
fn memory_comes_back_after_mass_removal() {
    for seed in 0..3 {
        let keys = shuffled(50_000, 16, seed);
        let mut index = KeyIndex::new();
        for (i, key) in keys.iter().enumerate() {
            index.insert(key, entry(i as u64));
        }
        check(&index);
        let full = index.memory_bytes();
        // Every tenth key stays, at its place in insertion order: all over the key space.
        for (i, key) in keys.iter().enumerate() {
            if i % 10 != 0 {
                assert!(index.remove(key).is_some());
            }
        }
        check(&index);
        assert_eq!(index.len(), 5_000);
        assert!(index.memory_bytes() < full / 10 * 13 / 10, "{} of {full}", index.memory_bytes());
        for key in keys.iter().step_by(10) {
            assert!(index.remove(key).is_some());
        }
        assert!(index.is_empty());
        assert_eq!(index.memory_bytes(), KeyIndex::new().memory_bytes());
    }
}

#[test]
fn ordered_removal_gives_memory_back_too() {
    let mut index = KeyIndex::new();
    for i in 0..100_000u64 {
        index.insert(&i.to_be_bytes(), entry(i));
    }
    let full = index.memory_bytes();
    for i in 0..99_000u64 {
        index.remove(&i.to_be_bytes());
    }
    check(&index);
    assert!(index.memory_bytes() < full / 50);
    for i in (99_000..100_000u64).rev() {
        index.remove(&i.to_be_bytes());
    }
    assert_eq!(index.memory_bytes(), KeyIndex::new().memory_bytes());
}

#[test]
fn the_longest_keys_split_and_merge() {
    // 0xFF so that the only difference lies at the very end, and separators are as long as keys.
    let key = |i: u32| {
        let mut key = vec![0xFF; KEY_BYTES_MAX];
        key[KEY_BYTES_MAX - 4..].copy_from_slice(&i.to_be_bytes());
        key
    };
    let (mut index, mut model) = (KeyIndex::new(), BTreeMap::new());
    let mut prng = Prng::new(7);
    for step in 0..6_000u64 {
        let key = key(prng.below(1_500) as u32);
        // Grows for a third, holds, then shrinks.
        if prng.chance([9, 5, 1][step as usize / 2_000], 10) {
            assert_eq!(index.insert(&key, entry(step)), model.insert(key, entry(step)));
        } else {
            assert_eq!(index.remove(&key), model.remove(&key));
        }
        if step % 50 == 0 {
            assert_same(&index, &model);
        }
    }
    assert_same(&index, &model);
}

#[test]
fn an_entry_that_grows_splits_its_leaf() {
    let small = Entry {
        location: Location { segment: SegmentId(1), pos: 1, len: 1 },
        version: Offset(1),
        expires: WallTime(0),
        flags: 0,
    };
    let mut index = KeyIndex::new();
    for i in 0..10_000u32 {
        index.insert(&i.to_be_bytes(), small);
    }
    for i in 0..10_000u32 {
        let changed = index.update(&i.to_be_bytes(), |entry| {
            entry.location.len = u32::MAX;
            entry.version = Offset(u64::MAX);
            entry.expires = WallTime(u64::MAX);
            entry.flags = 0xFF;
        });
        assert!(changed);
    }
    check(&index);
    assert_eq!(index.len(), 10_000);
    assert!(index.range_after(None).all(|(_, entry)| entry.flags == 0xFF));
    for i in 0..10_000u32 {
        assert_eq!(index.insert(&i.to_be_bytes(), small).map(|old| old.flags), Some(0xFF));
    }
    check(&index);
    assert!(index.range_after(None).all(|(_, entry)| entry == small));
}

#[test]
#[should_panic(expected = "a key of 1025 bytes was let in")]
fn a_key_over_the_limit_is_a_bug_of_the_caller() {
    KeyIndex::new().insert(&[0; KEY_BYTES_MAX + 1], entry(1));
}
