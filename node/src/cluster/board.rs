//! What every thread of a node may look at: the newest metadata and how the metadata group is.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ironring_ring::metadata::Metadata;

use crate::raft::GroupStatus;

/// Written by the thread of the metadata group, read by all.
#[derive(Debug, Default)]
pub struct Board {
    metadata: Mutex<Arc<Metadata>>,
    group: Mutex<Option<GroupStatus>>,
    failure: Mutex<Option<String>>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Board {
    /// The newest committed metadata this node knows.
    #[must_use]
    pub fn metadata(&self) -> Arc<Metadata> {
        Arc::clone(&locked(&self.metadata))
    }

    /// How the group is; nothing before it has started.
    #[must_use]
    pub fn group(&self) -> Option<GroupStatus> {
        locked(&self.group).clone()
    }

    /// Why the node is no member any more, when that ended it.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        locked(&self.failure).clone()
    }

    /// The node is no member any more.
    pub fn fail(&self, why: String) {
        *locked(&self.failure) = Some(why);
    }

    pub(super) fn set_metadata(&self, metadata: &Arc<Metadata>) {
        *locked(&self.metadata) = Arc::clone(metadata);
    }

    pub(super) fn set_group(&self, status: GroupStatus) {
        *locked(&self.group) = Some(status);
    }
}
