//! Join tokens: what a new node shows to be let in. The secret is seen once, by whoever made it;
//! the cluster keeps its hash.

use ironring_core::WallTime;
use ironring_ring::metadata::{JoinToken, Metadata, TokenRefused};
use sha2::{Digest, Sha256};

/// How a secret begins, so that it is recognised where it should not be.
const PREFIX: &str = "ir1-";
/// Random bytes of a secret.
const SECRET_BYTES: usize = 32;
/// Hexadecimal digits of the hash that name a token.
const ID_DIGITS: usize = 12;

/// Draws a secret, and what the metadata keep of it.
///
/// # Panics
/// When the kernel has no random bytes.
#[must_use]
pub fn draw(now: WallTime, valid_ms: u64, single_use: bool) -> (String, JoinToken) {
    let mut bytes = [0; SECRET_BYTES];
    getrandom::fill(&mut bytes).expect("the kernel gives random bytes");
    let secret = format!("{PREFIX}{}", hex(&bytes));
    let hash = hash_of(secret.as_bytes());
    let token = JoinToken {
        id: hash[..ID_DIGITS].to_owned(),
        hash,
        created: now,
        expires: WallTime(now.0.saturating_add(valid_ms)),
        single_use,
        used_by: None,
    };
    (secret, token)
}

/// The token a secret belongs to, if it lets somebody in at `now`.
///
/// # Errors
/// Why it does not.
pub fn shown<'a>(
    metadata: &'a Metadata,
    secret: &[u8],
    now: WallTime,
) -> Result<&'a JoinToken, TokenRefused> {
    let hash = hash_of(secret);
    // Found by the hash of what was shown: how long that takes tells nothing of any secret.
    let token = metadata.tokens().get(&hash[..ID_DIGITS]).filter(|token| token.hash == hash);
    let token = token.ok_or(TokenRefused::Unknown)?;
    token.check(now)?;
    Ok(token)
}

fn hash_of(secret: &[u8]) -> String {
    hex(&Sha256::digest(secret))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use ironring_core::StorageUuid;
    use ironring_ring::metadata::{Command, Facts};

    use super::*;
    use crate::cluster::tests::facts;

    const NOW: WallTime = WallTime(1_000_000);

    #[test]
    fn a_secret_lets_in_as_long_as_its_token_does() {
        let mut metadata = Metadata::default();
        metadata.apply(&Command::Found {
            name: "c".to_owned(),
            uuid: StorageUuid(1),
            partitions: 8,
            rf: 1,
            node: facts("a", 1),
            at: NOW,
        });
        let (secret, token) = draw(NOW, 1000, true);
        let secret = secret.as_bytes();
        assert_eq!(shown(&metadata, secret, NOW), Err(TokenRefused::Unknown));
        metadata.apply(&Command::AddToken(token.clone()));
        assert_eq!(shown(&metadata, secret, NOW), Ok(&token));
        assert_eq!(shown(&metadata, &secret[1..], NOW), Err(TokenRefused::Unknown));
        let late = WallTime(NOW.0 + 1000);
        assert_eq!(shown(&metadata, secret, late), Err(TokenRefused::Expired));
        let node = Facts { storage: StorageUuid(9), ..facts("b", 1) };
        metadata.apply(&Command::Join { node, token: Some(token.id), at: NOW });
        assert_eq!(shown(&metadata, secret, NOW), Err(TokenRefused::Used));
    }

    #[test]
    fn secrets_differ_and_are_not_what_is_kept() {
        let ((one, token), (other, _)) = (draw(NOW, 1, false), draw(NOW, 1, false));
        assert_ne!(one, other);
        assert!(!serde_json::to_string(&token).unwrap().contains(&one[PREFIX.len()..]));
        assert!(one.len() <= 256, "it fits a handshake");
    }
}
