//! What one client was told about its keys, which nobody else writes, and whether an answer is right.
//!
//! Every write has a number of its own, from which all bytes of its value follow. A write whose outcome
//! is not known may take effect at any time, or never. Versions tell which of two writes is the later.

use std::collections::{BTreeMap, BTreeSet};

use ironring_core::prng::Prng;

/// What is read when the bytes are none that were written.
pub const DAMAGED: u64 = u64::MAX;
const KIB: u64 = 1 << 10;

/// How long a value is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// 64 to 1,087 bytes.
    Small,
    /// 1 to 8 KiB.
    Medium,
    /// 12 KiB: what is written once and read seldom.
    Cold,
    /// 600 KiB, which is stored in chunks.
    Large,
}

/// The number of a client's write.
#[must_use]
pub fn number(client: u32, class: Class, counter: u32) -> u64 {
    (u64::from(client) << 40) | ((class as u64) << 32) | u64::from(counter)
}

/// The bytes of a value.
#[must_use]
pub fn bytes_of(number: u64) -> Vec<u8> {
    let mut prng = Prng::new(number);
    let len = match (number >> 32) & 0xFF {
        0 => 64 + prng.below(KIB),
        1 => KIB + prng.below(7 * KIB),
        2 => 12 * KIB,
        _ => 600 * KIB,
    };
    let mut bytes = vec![0; len as usize];
    prng.fill(&mut bytes);
    bytes[..8].copy_from_slice(&number.to_le_bytes());
    bytes
}

/// The number of a value, or [`DAMAGED`].
#[must_use]
pub fn number_of(bytes: &[u8]) -> u64 {
    let number = bytes.first_chunk().map(|first| u64::from_le_bytes(*first));
    number.filter(|number| bytes_of(*number) == bytes).unwrap_or(DAMAGED)
}

/// What a read found: its version and the number of the value.
pub type Found = Option<(u64, u64)>;

/// One key's past.
#[derive(Clone, Debug, Default)]
struct Known {
    /// The newest write known to have taken effect: its version, and its value if it has one.
    newest: Option<(u64, Option<u64>)>,
    /// Writes that may take effect still.
    unknown: BTreeSet<Option<u64>>,
    /// All numbers that were ever written.
    ever: BTreeSet<u64>,
}

/// What is wrong with an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wrong {
    /// An acknowledged write is not there any more.
    Lost(String),
    /// What was read is not what was written.
    Served(String),
}

/// One client's ledger.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    keys: BTreeMap<String, Known>,
    /// Writes that were acknowledged.
    pub acked: u64,
    /// Writes of unknown outcome.
    pub unknown: u64,
}

impl Ledger {
    /// A write is about to be sent.
    pub fn writes(&mut self, key: &str, value: Option<u64>) {
        self.keys.entry(key.to_owned()).or_default().ever.extend(value);
    }

    /// A write was acknowledged.
    pub fn acked(&mut self, key: &str, version: u64, value: Option<u64>) {
        self.acked += 1;
        self.keys.entry(key.to_owned()).or_default().newest = Some((version, value));
    }

    /// A write may have taken effect, or may still.
    pub fn unknown(&mut self, key: &str, value: Option<u64>) {
        self.unknown += 1;
        self.keys.entry(key.to_owned()).or_default().unknown.insert(value);
    }

    /// The keys, in order.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.keys.keys().map(String::as_str)
    }

    /// A linearizable read was answered, while no write of the key was under way.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge(&mut self, key: &str, found: Found) -> Result<(), Wrong> {
        let known = self.keys.entry(key.to_owned()).or_default();
        let Some((version, number)) = found else {
            let gone = known.newest.is_none_or(|(_, value)| value.is_none());
            return match gone || known.unknown.contains(&None) {
                true => Ok(()),
                false => Err(Wrong::Lost(format!("{key}: nothing is there, {:?}", known.newest))),
            };
        };
        known.written(key, number)?;
        let (least, value) = known.newest.unwrap_or((0, None));
        if version < least {
            let why = format!("{key}: version {version}, acknowledged was {least}");
            return Err(Wrong::Lost(why));
        }
        if version == least && value != Some(number) {
            let why = format!("{key}: {number:#x} at version {version}, written was {value:x?}");
            return Err(Wrong::Served(why));
        }
        if version > least {
            if !known.unknown.contains(&Some(number)) {
                let why =
                    format!("{key}: {number:#x} at {version}, replaced by {:?}", known.newest);
                return Err(Wrong::Served(why));
            }
            // From here on it is known.
            known.newest = Some((version, Some(number)));
        }
        Ok(())
    }

    /// A read of any replica was answered: old perhaps, but something that was written there.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn judge_stale(&self, key: &str, found: Found) -> Result<(), Wrong> {
        match (self.keys.get(key), found) {
            (Some(known), Some((_, number))) => known.written(key, number),
            (None, Some(_)) => Err(Wrong::Served(format!("{key} was never written"))),
            (_, None) => Ok(()),
        }
    }
}

impl Known {
    fn written(&self, key: &str, number: u64) -> Result<(), Wrong> {
        match self.ever.contains(&number) {
            true => Ok(()),
            false if number == DAMAGED => Err(Wrong::Served(format!("{key}: damaged bytes"))),
            false => Err(Wrong::Served(format!("{key}: {number:#x} was never written to it"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger() -> Ledger {
        let mut ledger = Ledger::default();
        for (version, number) in [(5, 1), (7, 2)] {
            ledger.writes("k", Some(number));
            ledger.acked("k", version, Some(number));
        }
        ledger
    }

    #[test]
    fn what_was_acknowledged_is_there() {
        let mut ledger = ledger();
        assert_eq!(ledger.judge("k", Some((7, 2))), Ok(()));
        assert!(matches!(ledger.judge("k", Some((5, 1))), Err(Wrong::Lost(_))));
        assert!(matches!(ledger.judge("k", None), Err(Wrong::Lost(_))));
        assert!(matches!(ledger.judge("k", Some((7, 1))), Err(Wrong::Served(_))));
        assert!(matches!(ledger.judge("k", Some((9, 2))), Err(Wrong::Served(_))));
        assert!(matches!(ledger.judge("k", Some((7, 3))), Err(Wrong::Served(_))));
        assert!(matches!(ledger.judge("k", Some((7, DAMAGED))), Err(Wrong::Served(_))));
        assert_eq!(ledger.judge("another", None), Ok(()));
    }

    #[test]
    fn what_is_unknown_may_take_effect_once_and_is_known_then() {
        let mut ledger = ledger();
        ledger.writes("k", Some(3));
        ledger.unknown("k", Some(3));
        assert_eq!(ledger.judge("k", Some((7, 2))), Ok(()));
        assert_eq!(ledger.judge("k", Some((8, 3))), Ok(()));
        assert!(matches!(ledger.judge("k", Some((7, 2))), Err(Wrong::Lost(_))));
        ledger.unknown("k", None);
        assert_eq!(ledger.judge("k", None), Ok(()));
        ledger.acked("k", 12, None);
        assert_eq!(ledger.judge("k", None), Ok(()));
    }

    #[test]
    fn a_stale_read_is_of_something_that_was_written_to_the_key() {
        let ledger = ledger();
        for number in [1, 2] {
            assert_eq!(ledger.judge_stale("k", Some((1, number))), Ok(()));
        }
        assert_eq!(ledger.judge_stale("k", None), Ok(()));
        assert!(ledger.judge_stale("k", Some((1, 9))).is_err());
        assert!(ledger.judge_stale("other", Some((1, 1))).is_err());
    }

    #[test]
    fn bytes_say_which_value_they_are() {
        for class in [Class::Small, Class::Medium, Class::Cold, Class::Large] {
            let number = number(3, class, 77);
            let mut bytes = bytes_of(number);
            assert_eq!(number_of(&bytes), number);
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            assert_eq!(number_of(&bytes), DAMAGED);
        }
        assert_eq!(number_of(b"short"), DAMAGED);
    }
}
