//! Frames both ways, and how much of them.

use std::sync::atomic::Ordering;

use ironring_core::{PartitionId, StorageUuid, Term};
use ironring_net::peer::message::{Fence, ReplicaId};
use ironring_net::peer::{Kind, Message, OutputError};
use ironring_node::driver::peers::{Down, Side};

use crate::harness::{Spec, TestNode, Told, linked, section};
use crate::support::under_every_runtime;

under_every_runtime! {
    frames_go_both_ways_and_keep_their_order,
    a_frame_of_megabytes_arrives_whole,
    credits_stop_a_fast_sender,
    a_request_on_an_accepted_connection_ends_it,
}

fn frames_go_both_ways_and_keep_their_order() {
    const FRAMES: u32 = 500;
    let (one, two, here, there) = linked(1, 0);
    one.shards[1].ask(move |peers| {
        peers.output(here, |output| {
            for n in 0..FRAMES {
                let mut frame = output.replicate().unwrap();
                frame.push(&section(n, &n.to_le_bytes()), []).unwrap();
                frame.push(&section(n, &[]), []).unwrap();
                frame.finish().unwrap();
            }
        })
    });
    for n in 0..FRAMES {
        let (link, items, payload) = two.shards[0].seen.frame(Kind::Replicate);
        assert_eq!((link, items, &payload[..]), (there, 2, &n.to_le_bytes()[..]));
        let (link, items, _) = one.shards[1].seen.frame(Kind::Acks);
        assert_eq!((link, items), (here, 2));
    }
}

fn a_frame_of_megabytes_arrives_whole() {
    let (one, two, here, _) = linked(0, 1);
    let records: Vec<u8> = (0..4u32 << 20).map(|n| ((n * 7) >> 3) as u8).collect();
    // More than the window all together: what is done with makes room for more.
    for _ in 0..8 {
        let begin = std::time::Instant::now();
        loop {
            match one.shards[0].replicate(here, records.clone()) {
                Ok(()) => break,
                Err(OutputError::NoCredit { .. } | OutputError::Full { .. }) => {
                    std::thread::sleep(std::time::Duration::from_millis(1));
                }
                Err(error) => panic!("{error}"),
            }
            assert!(begin.elapsed() < crate::support::PATIENCE, "no room ever came");
        }
    }
    for _ in 0..8 {
        let (_, _, payload) = two.shards[1].seen.frame(Kind::Replicate);
        assert!(payload == records, "the records are not what was sent");
        one.shards[0].seen.frame(Kind::Acks);
    }
}

fn credits_stop_a_fast_sender() {
    let mut two = Spec::new(2);
    two.settings.window_bytes = 10_000;
    let (one, two) = (TestNode::start(Spec::new(1)), TestNode::start(two));
    two.shards[0].manners.keeps.store(true, Ordering::Relaxed);
    one.dial(0, two.target(), two.shard(0));
    let (here, _) = one.shards[0].seen.up(Side::Dialled);
    let (there, _) = two.shards[0].seen.up(Side::Accepted);
    let send = || one.shards[0].replicate(here, vec![1; 4000]);
    assert_eq!((send(), send()), (Ok(()), Ok(())));
    assert_eq!(send(), Err(OutputError::NoCredit { need: 4000, left: 2000 }));
    // A frame without a payload needs none.
    assert_eq!(one.shards[0].replicate(here, vec![]), Ok(()));
    for _ in 0..3 {
        two.shards[0].seen.frame(Kind::Replicate);
    }
    assert!(send().is_err(), "they have come, and their owner is not done with them");
    two.shards[0].ask(move |peers| peers.grant(there, 2000));
    one.shards[0].until(move |peers| {
        peers.output(here, |output| output.credits()).filter(|credits| *credits == 4000)
    });
    assert_eq!(send(), Ok(()));
    let (_, _, payload) = two.shards[0].seen.frame(Kind::Replicate);
    assert_eq!(payload.len(), 4000);
}

fn a_request_on_an_accepted_connection_ends_it() {
    let (one, two, here, there) = linked(0, 0);
    two.shards[0].ask(move |peers| {
        let to = ReplicaId { storage: StorageUuid(1), life: 1 };
        let fences = [Fence { partition: PartitionId(1), to, term: Term(1) }];
        peers.output(there, |output| output.send(&Message::Fences((&fences[..]).into())))
    });
    let ended = one.shards[0].seen.wait(|told| match told {
        Told::Down { link, reason, .. } if link == here => Some(reason),
        _ => None,
    });
    assert_eq!(ended, Down::WrongSide(Kind::Fences));
}
