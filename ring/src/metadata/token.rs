//! Join tokens: what a new node shows to be let in. Only hashes are kept.

use ironring_core::{NodeId, WallTime};
use serde::{Deserialize, Serialize};

/// How long a token is valid, unless its maker says otherwise.
pub const TOKEN_VALID_MS: u64 = 24 * 60 * 60 * 1000;
/// Tokens kept at most; those that expired go first.
pub const TOKENS_MAX: usize = 256;

/// A token as metadata keep it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinToken {
    /// Its public name: the beginning of its hash, in hexadecimal.
    pub id: String,
    /// SHA-256 of the secret, in hexadecimal.
    pub hash: String,
    /// When it was made.
    pub created: WallTime,
    /// From when on it is no longer taken.
    pub expires: WallTime,
    /// Whether it lets in one node only.
    pub single_use: bool,
    /// The last node it let in.
    pub used_by: Option<NodeId>,
}

/// Why a token is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TokenRefused {
    /// No such token, or it was revoked.
    #[error("the join token is not known to this cluster: it was revoked, or is another cluster's")]
    Unknown,
    /// It is too old.
    #[error("the join token has expired")]
    Expired,
    /// It let in somebody already.
    #[error("the join token was for one node and has been used")]
    Used,
}

impl JoinToken {
    /// Whether it lets somebody in at `now`, by the clock of the controller that asks.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, now: WallTime) -> Result<(), TokenRefused> {
        if now >= self.expires {
            return Err(TokenRefused::Expired);
        }
        if self.single_use && self.used_by.is_some() {
            return Err(TokenRefused::Used);
        }
        Ok(())
    }
}
