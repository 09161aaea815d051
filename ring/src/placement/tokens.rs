//! The tokens a node claims on the ring.
//!
//! Persistent state: the tokens of placement version 1 never change, and the golden vectors below
//! hold them fixed. A new recipe is a new version. The recipe names no cluster, so that the figures
//! of one cluster can be worked out on any machine from node ids and weights alone.
//!
//! `token(node, i)` = the first 8 bytes, big endian, of SHA-256 of these 27 bytes:
//!
//! | bytes | what |
//! |---|---|
//! | 14 | `ironring vnode` (ASCII) |
//! | 1 | placement version, 1 |
//! | 8 | node id, big endian |
//! | 4 | vnode number from 0, big endian |
//!
//! Consistent hashing: Karger et al. 1997; many tokens a node: Dynamo (DeCandia et al. 2007).

use std::fmt;

use ironring_core::{NodeId, Token};
use sha2::{Digest, Sha256};

/// Version of the recipe of tokens and of the walk. Part of what every token is hashed from.
pub const PLACEMENT_VERSION: u8 = 1;
/// Tokens of a node of weight 1.
pub const VNODES_PER_NODE: u32 = 150;

const DOMAIN: &[u8; 14] = b"ironring vnode";

/// How much a node should hold in relation to others, in hundredths: 100 is the usual 1.00. Fixed
/// point, because a share must come out the same on every machine. 0 means that the node holds no
/// data: it takes part in metadata only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Weight(u16);

/// A weight above [`Weight::MAX`], in hundredths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("weight of {0} hundredths: choose 0 to {max}", max = Weight::MAX.hundredths())]
pub struct WeightError(pub u16);

impl Weight {
    /// No data.
    pub const ZERO: Weight = Weight(0);
    /// The usual weight, 1.00.
    pub const ONE: Weight = Weight(100);
    /// The largest weight, 100.00: 15,000 vnodes.
    pub const MAX: Weight = Weight(10_000);

    /// A weight of `hundredths` / 100, at most [`Weight::MAX`].
    pub fn from_hundredths(hundredths: u16) -> Result<Weight, WeightError> {
        if hundredths > Weight::MAX.0 {
            return Err(WeightError(hundredths));
        }
        Ok(Weight(hundredths))
    }

    /// The weight times 100.
    #[must_use]
    pub const fn hundredths(self) -> u16 {
        self.0
    }

    /// Tokens a node of this weight claims: 150 times the weight, rounded up.
    #[must_use]
    pub fn vnodes(self) -> u32 {
        (u32::from(self.0) * VNODES_PER_NODE).div_ceil(u32::from(Weight::ONE.0))
    }
}

impl Default for Weight {
    fn default() -> Self {
        Weight::ONE
    }
}

impl fmt::Display for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
    }
}

/// The token of one vnode. One SHA-256 block.
#[must_use]
pub fn vnode_token(node: NodeId, vnode: u32) -> Token {
    let mut input = [0u8; 27];
    input[..14].copy_from_slice(DOMAIN);
    input[14] = PLACEMENT_VERSION;
    input[15..23].copy_from_slice(&node.0.to_be_bytes());
    input[23..].copy_from_slice(&vnode.to_be_bytes());
    let digest = Sha256::digest(input);
    let mut first = [0u8; 8];
    first.copy_from_slice(&digest[..8]);
    Token(u64::from_be_bytes(first))
}

/// All tokens of a node, by vnode number. A smaller weight has the first of a larger one's, so a
/// change of weight leaves the tokens it does not add or remove where they are.
pub fn vnode_tokens(node: NodeId, weight: Weight) -> impl Iterator<Item = Token> {
    (0..weight.vnodes()).map(move |vnode| vnode_token(node, vnode))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Stored maps were proposed with these: another value here is another placement version.
    #[test]
    fn golden_tokens() {
        for (node, vnode, token) in [
            (1, 0, 0x7f78_6b78_b966_563c),
            (1, 1, 0x91d1_740e_8701_5ad1),
            (1, 149, 0x6cbf_ff07_d89d_29bf),
            (2, 0, 0xc87d_bfc5_3a2c_5fbe),
            (u64::MAX, u32::MAX, 0x768d_f1f2_9c15_8275),
        ] {
            assert_eq!(vnode_token(NodeId(node), vnode), Token(token), "{node}/{vnode}");
        }
    }

    #[test]
    fn golden_sum_over_ten_nodes() {
        let sum = (1..=10)
            .flat_map(|n| vnode_tokens(NodeId(n), Weight::ONE))
            .fold(0u64, |sum, token| sum.rotate_left(1) ^ token.0);
        assert_eq!(sum, 0xaa11_ccc0_7469_b325);
    }

    #[test]
    fn weights_scale_vnodes() {
        let vnodes = |h| Weight::from_hundredths(h).unwrap().vnodes();
        assert_eq!([vnodes(0), vnodes(1), vnodes(50), vnodes(100)], [0, 2, 75, 150]);
        assert_eq!([vnodes(101), vnodes(250), vnodes(10_000)], [152, 375, 15_000]);
        assert_eq!(Weight::from_hundredths(10_001), Err(WeightError(10_001)));
        assert_eq!(Weight::from_hundredths(1205).unwrap().to_string(), "12.05");
        assert_eq!(
            WeightError(10_001).to_string(),
            "weight of 10001 hundredths: choose 0 to 10000"
        );
    }
}
