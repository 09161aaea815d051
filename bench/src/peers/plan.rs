//! What servers are compared in.

use super::System;
use crate::error::BenchError;
use crate::floor::fio::{DSYNC_256K, Job};
use crate::scenario::{Keys, Load, Mix, Mode, ProtocolName, Scenario, Topic, Values};
use std::time::Duration;

/// Values and records of every comparison.
const VALUE_BYTES: usize = 1024;
const KEYS: u64 = 100_000;
/// Records unanswered per connection in the append comparison, whether in one request or in many.
const APPEND_RECORDS: usize = 1000;
const APPEND_CONNECTIONS: usize = 8;
/// A disk may stall for longer than a request usually takes; in a closed loop that is no reason to
/// give up on a reply.
const TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Puts by so many connections, one request each.
    Put { connections: usize },
    /// Gets by 64 connections, so many requests each.
    Get { pipeline: usize },
    /// Appends of batches.
    Append,
}

/// One comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Its name.
    pub name: &'static str,
    /// What it shows.
    pub description: &'static str,
    kind: Kind,
}

const PLANS: [Plan; 6] = [
    Plan {
        name: "put-1",
        description: "durable puts of 1 KiB, 1 connection, closed loop",
        kind: Kind::Put { connections: 1 },
    },
    Plan {
        name: "put-64",
        description: "durable puts of 1 KiB, 64 connections, closed loop",
        kind: Kind::Put { connections: 64 },
    },
    Plan {
        name: "put-256",
        description: "durable puts of 1 KiB, 256 connections, closed loop",
        kind: Kind::Put { connections: 256 },
    },
    Plan {
        name: "get-64",
        description: "gets of 1 KiB, 64 connections, closed loop",
        kind: Kind::Get { pipeline: 1 },
    },
    Plan {
        name: "get-64x16",
        description: "gets of 1 KiB, 64 connections, 16 requests in flight on each",
        kind: Kind::Get { pipeline: 16 },
    },
    Plan {
        name: "append",
        description: "durable appends of 1 KiB records, 8 connections, 1,000 records in flight on \
                      each (ironring: one request, NATS: 1,000 publishes)",
        kind: Kind::Append,
    },
];

/// The plans of these names; all without names.
///
/// # Errors
/// There is no plan of some name.
pub fn chosen(names: &[String]) -> Result<Vec<Plan>, BenchError> {
    if names.is_empty() {
        return Ok(PLANS.to_vec());
    }
    let find = |name: &String| {
        PLANS.iter().find(|plan| plan.name == name).copied().ok_or_else(|| {
            let known: Vec<&str> = PLANS.iter().map(|plan| plan.name).collect();
            BenchError::Usage(format!("no comparison `{name}`: there are {}", known.join(", ")))
        })
    };
    names.iter().map(find).collect()
}

impl Plan {
    /// The scenario for a server; `None` when it cannot do this. Address, times and CPU are the
    /// caller's.
    #[must_use]
    pub fn scenario(&self, system: System) -> Option<Scenario> {
        let mut scenario = Scenario {
            name: self.name.to_owned(),
            description: self.description.to_owned(),
            protocol: system.protocol(),
            load: Load { mode: Mode::Closed, timeout: TIMEOUT, pipeline: 1, ..Load::default() },
            keys: Keys { count: KEYS, ..Keys::default() },
            values: Values { size: VALUE_BYTES, ..Values::default() },
            ..Scenario::default()
        };
        match (self.kind, system) {
            (Kind::Put { .. } | Kind::Get { .. }, System::Nats)
            | (Kind::Append, System::Redis | System::Etcd) => return None,
            // HTTP clients do not send a request before the last one's answer.
            (Kind::Get { pipeline }, System::Etcd) if pipeline > 1 => return None,
            (Kind::Put { connections }, _) => {
                scenario.load.connections = connections;
                scenario.mix = Mix { put: 1, ..Mix::default() };
            }
            (Kind::Get { pipeline }, _) => {
                scenario.load.pipeline = pipeline;
                scenario.mix = Mix { get: 1, ..Mix::default() };
                scenario.keys.prefill = true;
            }
            (Kind::Append, _) => {
                scenario.load.connections = APPEND_CONNECTIONS;
                scenario.mix = Mix { append: 1, ..Mix::default() };
                if system.protocol() == ProtocolName::Ironring {
                    scenario.topic =
                        Topic { records_per_append: APPEND_RECORDS, ..Topic::default() };
                } else {
                    scenario.load.pipeline = APPEND_RECORDS;
                }
            }
        }
        Some(scenario)
    }

    /// What of the disk it is held against.
    #[must_use]
    pub fn disk(&self) -> Option<Job> {
        (self.kind == Kind::Append).then_some(DSYNC_256K)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_plan_is_valid_for_every_server_that_can_do_it() {
        for plan in PLANS {
            assert!(plan.scenario(System::Ironring).is_some());
            for system in [
                System::Ironring,
                System::IronringMonoio,
                System::Redis,
                System::Nats,
                System::Etcd,
            ] {
                if let Some(mut scenario) = plan.scenario(system) {
                    scenario.check().unwrap();
                    assert_eq!(scenario.load.mode, Mode::Closed);
                }
            }
        }
    }

    #[test]
    fn appends_keep_the_same_records_in_flight_everywhere() {
        let append = chosen(&["append".to_owned()]).unwrap()[0];
        for system in [System::Ironring, System::IronringMonoio, System::Nats] {
            let s = append.scenario(system).unwrap();
            let per_request =
                crate::engine::records_per_op(&s, crate::workload::OpKind::Append) as usize;
            assert_eq!(s.load.connections * s.load.pipeline * per_request, 8000);
        }
    }

    #[test]
    fn an_unknown_plan_names_the_known_ones() {
        let error = chosen(&["fly".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("fly") && error.contains("put-64"));
    }
}
