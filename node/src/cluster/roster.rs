//! Who is let in and whom this node may dial: pure functions of the metadata, or, before there are
//! any, of what the directory remembers.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use ironring_core::{NodeId, WallTime};
use ironring_net::peer::hello::ClusterUuid;
use ironring_net::peer::{Hello, Member, Refusal, Run};
use ironring_ring::metadata::{Facts, Metadata, TokenRefused};

use super::identity::{ClusterIdentity, Known, is_provisional};
use super::token;
use crate::driver::peers::{Admission, PeerTarget, PeerTargets};

/// The other members, as a directory remembers them.
#[must_use]
pub fn known(metadata: &Metadata, me: NodeId) -> Vec<Known> {
    let others = metadata.members().filter(|member| member.id != me);
    others
        .map(|member| Known {
            node: member.id,
            storage: member.facts.storage,
            address: member.facts.addresses.node.clone(),
            shards: member.facts.shards,
        })
        .collect()
}

/// The newest run of each member.
#[must_use]
pub fn runs(metadata: &Metadata) -> BTreeMap<NodeId, Run> {
    metadata.members().map(|member| (member.id, run_of(&member.facts))).collect()
}

fn run_of(facts: &Facts) -> Run {
    Run { incarnation: facts.incarnation, mark: facts.lineage.mark }
}

/// What the node at the door is told besides.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    /// This node leads the metadata group.
    pub leads: bool,
    /// It is about to stop.
    pub stopping: bool,
}

/// Whom a node may dial. One whose address cannot be read is left out: nothing could be sent there.
#[must_use]
pub fn targets(identity: &ClusterIdentity, metadata: &Metadata) -> PeerTargets {
    let known = match knows_me(identity, metadata) {
        true => known(metadata, identity.node),
        false => identity.known.clone(),
    };
    let target = |known: &Known| {
        Some(PeerTarget {
            node: known.node,
            address: known.address.parse::<SocketAddr>().ok()?,
            shard_count: known.shards,
        })
    };
    let nodes = known.iter().filter_map(target).collect();
    PeerTargets { cluster: ClusterUuid(identity.uuid.0), nodes }
}

/// Whether the metadata have this node among the members: they count then.
fn knows_me(identity: &ClusterIdentity, metadata: &Metadata) -> bool {
    metadata.member(identity.node).is_some()
}

/// What is to be said of a node at the door. `leads`: this node leads the metadata group, so that a
/// token it does not know is none.
#[must_use]
pub fn admission(
    identity: &ClusterIdentity,
    metadata: &Metadata,
    hello: &Hello<'_>,
    now: WallTime,
    Moment { leads, stopping }: Moment,
) -> Admission {
    let (node, storage) = (hello.identity.node, hello.identity.storage);
    if metadata.was_removed(storage) {
        let member = Some(Member { storage, removed: true, newest: None });
        return Admission { member, token_refused: None, stopping };
    }
    let member = match knows_me(identity, metadata) {
        true => metadata.member(node).map(|member| {
            let storage = member.facts.storage;
            Member { storage, removed: false, newest: Some(run_of(&member.facts)) }
        }),
        false => identity.known.iter().find(|known| known.node == node).map(|known| Member {
            storage: known.storage,
            removed: false,
            newest: None,
        }),
    };
    let token_refused = if !is_provisional(node) {
        let why = format!("node {node} is not a member, and one that joins has no id yet");
        Some((Refusal::UnknownNode, why))
    } else if metadata.member_on(storage).is_some() {
        // It was let in before and does not know: it asks again.
        None
    } else {
        token::shown(metadata, hello.token, now).err().map(|why| match why {
            TokenRefused::Unknown if !leads => {
                (Refusal::UnknownNode, "the join token is not known here, or not yet".to_owned())
            }
            why => (Refusal::BadToken, why.to_string()),
        })
    };
    Admission { member, token_refused, stopping }
}

#[cfg(test)]
mod tests {
    use ironring_core::{Incarnation, ShardId, StorageUuid};
    use ironring_net::peer::VERSIONS;
    use ironring_net::peer::hello::Identity;
    use ironring_ring::metadata::Command;

    use super::*;
    use crate::cluster::Stage;
    use crate::cluster::identity::provisional;
    use crate::cluster::tests::{directory, facts};

    const NOW: WallTime = WallTime(50_000);
    const LEADS: Moment = Moment { leads: true, stopping: false };

    fn metadata() -> Metadata {
        let mut metadata = Metadata::default();
        metadata.apply(&Command::Found {
            name: "c".to_owned(),
            uuid: StorageUuid(1),
            partitions: 8,
            rf: 1,
            node: facts("a", 1),
            at: NOW,
        });
        metadata
    }

    fn mine(known: Vec<Known>) -> ClusterIdentity {
        ClusterIdentity::new(&directory(), StorageUuid(1), NodeId(1), Stage::Member, known)
    }

    fn hello(node: NodeId, storage: u128, token: &[u8]) -> Hello<'_> {
        Hello {
            versions: VERSIONS,
            identity: Identity {
                cluster_name: "c",
                cluster: ClusterUuid::NONE,
                node,
                node_name: "b",
                storage: StorageUuid(storage),
                incarnation: Incarnation(1),
                shard_count: 1,
                wall: NOW,
                features: 0,
            },
            to_node: NodeId(0),
            from_shard: ShardId(0),
            to_shard: ShardId(0),
            token,
            mark: 0,
        }
    }

    #[test]
    fn a_stranger_is_let_in_by_a_token_and_then_by_its_storage() {
        let mut metadata = metadata();
        let (secret, token) = token::draw(NOW, 1000, true);
        let id = token.id.clone();
        metadata.apply(&Command::AddToken(token));
        let me = mine(Vec::new());
        let stranger = provisional(StorageUuid(5));
        let refused = |metadata: &Metadata, hello: &Hello<'_>, now| {
            admission(&me, metadata, hello, now, LEADS).token_refused.map(|(_, why)| why)
        };
        let shows = hello(stranger, 5, secret.as_bytes());
        assert_eq!(refused(&metadata, &shows, NOW), None);
        let late = WallTime(NOW.0 + 1000);
        assert_eq!(refused(&metadata, &shows, late).unwrap(), "the join token has expired");
        let unknown = hello(stranger, 5, b"x");
        let kind = |leads| {
            let moment = Moment { leads, stopping: false };
            admission(&me, &metadata, &unknown, NOW, moment).token_refused.map(|(kind, _)| kind)
        };
        assert_eq!(kind(true), Some(Refusal::BadToken));
        assert_eq!(kind(false), Some(Refusal::UnknownNode), "it may be on its way");
        let id_of_a_member = hello(NodeId(9), 5, secret.as_bytes());
        assert!(refused(&metadata, &id_of_a_member, NOW).is_some());
        let node = Facts { storage: StorageUuid(5), ..facts("b", 1) };
        metadata.apply(&Command::Join { node, token: Some(id), at: NOW });
        assert_eq!(refused(&metadata, &shows, NOW), None, "it is a member by now");
        let other = hello(provisional(StorageUuid(6)), 6, secret.as_bytes());
        assert!(refused(&metadata, &other, NOW).unwrap().contains("has been used"));
    }

    #[test]
    fn before_there_are_metadata_the_directory_says_who_is_a_member() {
        let known = Known {
            node: NodeId(2),
            storage: StorageUuid(5),
            address: "10.0.0.2:7412".to_owned(),
            shards: 3,
        };
        let me = mine(vec![known]);
        let empty = Metadata::default();
        let theirs = hello(NodeId(2), 5, b"");
        let member = admission(&me, &empty, &theirs, NOW, LEADS).member.unwrap();
        assert_eq!(member.storage, StorageUuid(5));
        assert_eq!(targets(&me, &empty).nodes.len(), 1);
        // With metadata these count.
        assert!(admission(&me, &metadata(), &theirs, NOW, LEADS).member.is_none());
        assert!(targets(&me, &metadata()).nodes.is_empty());
    }
}
