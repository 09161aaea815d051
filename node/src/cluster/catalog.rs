//! The metadata as the group replicates them: commands and snapshots as bytes, the state as one
//! shared value that is replaced, never changed, once others have it.

use std::rc::Rc;
use std::sync::Arc;

use ironring_ring::metadata::{Command, Metadata, Outcome};
use tokio::sync::Notify;

use crate::raft::MetaMachine;

/// The replicated state of the metadata group.
pub struct Catalog {
    metadata: Arc<Metadata>,
    /// Told of every change.
    changed: Rc<Notify>,
}

impl Catalog {
    /// Empty metadata; `changed` is told of every change.
    #[must_use]
    pub fn new(changed: Rc<Notify>) -> Catalog {
        Catalog { metadata: Arc::default(), changed }
    }

    /// The metadata after the last command that was applied.
    #[must_use]
    pub fn newest(&self) -> &Arc<Metadata> {
        &self.metadata
    }
}

impl MetaMachine for Catalog {
    fn apply(&mut self, _index: u64, command: &[u8]) -> Result<Vec<u8>, String> {
        let command = Command::decode(command).map_err(|error| error.to_string())?;
        // Copies the metadata when somebody has those before: once for all commands until the next
        // time they are published.
        let outcome = Arc::make_mut(&mut self.metadata).apply(&command);
        self.changed.notify_one();
        Ok(encode_outcome(&outcome))
    }

    fn snapshot(&self) -> Vec<u8> {
        self.metadata.encode()
    }

    fn restore(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.metadata = Arc::new(Metadata::decode(bytes).map_err(|error| error.to_string())?);
        self.changed.notify_one();
        Ok(())
    }
}

fn encode_outcome(outcome: &Outcome) -> Vec<u8> {
    serde_json::to_vec(outcome).expect("outcomes have string keys only")
}

/// What came of a command, from the bytes the group gives back.
///
/// # Errors
/// When they are not what [`Catalog`] makes.
pub fn decode_outcome(bytes: &[u8]) -> Result<Outcome, String> {
    serde_json::from_slice(bytes).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use ironring_core::{StorageUuid, WallTime};
    use ironring_ring::metadata::Rejected;

    use super::*;
    use crate::cluster::tests::facts;

    #[test]
    fn commands_are_applied_snapshots_restored_and_readers_keep_what_they_have() {
        let mut catalog = Catalog::new(Rc::default());
        let before = Arc::clone(catalog.newest());
        let found = Command::Found {
            name: "c".to_owned(),
            uuid: StorageUuid(5),
            partitions: 8,
            rf: 3,
            node: facts("a", 1),
            at: WallTime(7),
        };
        let outcome = catalog.apply(0, &found.encode()).unwrap();
        assert!(matches!(decode_outcome(&outcome), Ok(Outcome::Joined { .. })));
        let again = catalog.apply(1, &found.encode()).unwrap();
        assert_eq!(decode_outcome(&again), Ok(Outcome::Rejected(Rejected::Founded)));
        assert!(before.identity().is_none() && catalog.newest().identity().is_some());
        let mut other = Catalog::new(Rc::default());
        other.restore(&catalog.snapshot()).unwrap();
        assert_eq!(other.newest(), catalog.newest());
        let newer = br#"{"format":99,"command":{"something":1}}"#;
        assert!(catalog.apply(2, newer).unwrap_err().contains("upgrade"));
    }
}
