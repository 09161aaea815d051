//! Readiness: not "the process runs", but "a write can be made durable on every shard". A node that
//! drains or leaves is not ready either: new clients are to go elsewhere.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use super::NodeView;

/// How long shards have to make the probe's write durable.
pub const PROBE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an answer is good for: a crowd of probers costs one durable write a second.
pub const ANSWER_FRESH: Duration = Duration::from_secs(1);
/// How much longer the view may take before it is given up on.
const VIEW_GRACE: Duration = Duration::from_millis(500);

/// Whether the node takes requests, and why not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether it does.
    pub ready: bool,
    /// One sentence for each thing that is in the way.
    pub reasons: Vec<String>,
}

impl Readiness {
    fn new(reasons: Vec<String>) -> Readiness {
        Readiness { ready: reasons.is_empty(), reasons }
    }
}

/// Asks the node, one question at a time.
pub struct Prober {
    view: Arc<dyn NodeView>,
    last: Mutex<Option<(Instant, Readiness)>>,
}

impl Prober {
    /// A prober of this node.
    #[must_use]
    pub fn new(view: Arc<dyn NodeView>) -> Prober {
        Prober { view, last: Mutex::new(None) }
    }

    /// The answer of the second before `now`, or a new one. Shards that are not ready by their own account
    /// are not asked to write.
    pub async fn readiness(&self, now: Instant) -> Readiness {
        let mut last = self.last.lock().await;
        if let Some((when, answer)) = last.as_ref()
            && now.saturating_duration_since(*when) < ANSWER_FRESH
        {
            return answer.clone();
        }
        let mut reasons = self.view.snapshot().not_ready_reasons();
        if reasons.is_empty() {
            reasons = self.probe().await;
        }
        // It serves on, and those who spread clients over the nodes are to leave it out.
        if let Some(state) = self.view.board().going() {
            reasons.push(format!("the node is {}, by an operator's decision", state.name()));
        }
        let answer = Readiness::new(reasons);
        *last = Some((now, answer.clone()));
        answer
    }

    async fn probe(&self) -> Vec<String> {
        let view = Arc::clone(&self.view);
        let probing = tokio::task::spawn_blocking(move || view.probe_ready(PROBE_TIMEOUT));
        match timeout(PROBE_TIMEOUT + VIEW_GRACE, probing).await {
            Ok(Ok(Ok(()))) => Vec::new(),
            Ok(Ok(Err(reasons))) if reasons.is_empty() => {
                vec!["a shard did not make the probe's write durable".to_owned()]
            }
            Ok(Ok(Err(reasons))) => reasons,
            Ok(Err(_)) => vec!["the readiness probe failed".to_owned()],
            Err(_) => vec![format!("no answer from the shards within {PROBE_TIMEOUT:?}")],
        }
    }
}
