//! The same script on every driver: the shipped shard in the simulator, under glommio and under
//! monoio. The answers must be equal to the last version, offset, receipt and error.

mod real;
mod script;
mod simulated;

use ironring_node::config::RuntimeName;
use ironring_tests::sim::op::{Op, Outcome};

use real::RealNode;
use script::Script;
use simulated::SimulatedNode;

/// Partitions of every node here.
const PARTITIONS: u32 = 8;
/// Bytes of a segment.
const SEGMENT_BYTES: u64 = 4 << 20;

/// A node that answers one request at a time.
trait Target {
    /// Sends a request to a shard and waits for its answer.
    fn ask(&mut self, shard: u16, op: &Op) -> Outcome;

    /// Stops the node cleanly and starts it again.
    fn restart(&mut self);
}

fn compare(shards: u16) {
    let simulated = Script::run(&mut SimulatedNode::start(shards), shards);
    script::says_much(&simulated);
    for runtime in [RuntimeName::Glommio, RuntimeName::Monoio] {
        let answers = Script::run(&mut RealNode::start(runtime, shards), shards);
        assert_eq!(answers.len(), simulated.len());
        for (n, (real, simulated)) in answers.iter().zip(&simulated).enumerate() {
            assert_eq!(real, simulated, "step {n} under {} and in the simulator", runtime.name());
        }
    }
}

#[test]
fn one_shard_answers_the_same_under_every_driver() {
    compare(1);
}

#[test]
fn shards_that_send_each_other_requests_answer_the_same_under_every_driver() {
    compare(3);
}
