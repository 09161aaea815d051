use std::rc::Weak;

use super::*;
use crate::client::ClientConfig;
use crate::client::asynchronous::connect;
use crate::client::asynchronous::tests::run;
use crate::client::fake::{Cluster, Frozen};
use crate::message::{Condition, WriteOptions};
use ironring_core::{Durability, SessionId};
use monoio::time::{sleep, timeout};

/// Far longer than anything here takes: it is there so that a test fails instead of hanging.
const GUARD: Duration = Duration::from_secs(20);

async fn pipeline_to(address: &str, in_flight_max: u32) -> Pipeline {
    let (sender, receiver, server) = connect(address, &ClientConfig::new(address)).await.unwrap();
    Pipeline::new(sender, receiver, ServerInfo { in_flight_max, ..server })
}

fn put(value: &[u8]) -> Request<'_> {
    let options =
        WriteOptions { durability: Durability::Local, session: SessionId::NONE, sequence: 0 };
    Request::Put { options, condition: Condition::None, ttl_ms: 0, key: b"k", value }
}

async fn until(condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(GUARD, waiting).await.expect("it never came to be");
}

async fn is_pending<F: Future>(future: &mut Pin<Box<F>>) -> bool {
    poll_fn(|context| Poll::Ready(future.as_mut().poll(context).is_pending())).await
}

#[test]
fn an_answer_nobody_takes_makes_room_all_the_same() {
    let cluster = Cluster::start();
    run(async {
        let pipeline = pipeline_to(&cluster.address(0), 1).await;
        let mut first = Box::pin(pipeline.call(0, &Request::Ping));
        assert!(is_pending(&mut first).await);
        let mut second = Box::pin(pipeline.call(0, &Request::Ping));
        assert!(is_pending(&mut second).await, "there is room for one");
        let shared = &pipeline.handle.shared;
        until(|| matches!(shared.slots.borrow().slots[0].state, State::Answered(..))).await;
        drop(first);
        timeout(GUARD, second).await.expect("nobody told it").unwrap();
    });
}

#[test]
fn who_gives_up_before_there_is_room_knows_that_nothing_was_sent() {
    let cluster = Cluster::start();
    run(async {
        let pipeline = pipeline_to(&cluster.address(0), 1).await;
        let (first_sent, second_sent) = (Cell::new(false), Cell::new(false));
        let mut first = Box::pin(pipeline.call_noting(0, 0, &Request::Ping, &first_sent));
        let mut second = Box::pin(pipeline.call_noting(0, 0, &Request::Ping, &second_sent));
        assert!(is_pending(&mut first).await && is_pending(&mut second).await);
        assert_eq!((first_sent.get(), second_sent.get()), (true, false));
        drop(second);
        first.await.unwrap();
        pipeline.call(0, &Request::Ping).await.unwrap();
    });
}

#[test]
fn a_peer_that_takes_nothing_is_left_when_nobody_waits_for_it() {
    let frozen = Frozen::start();
    run(async {
        let pipeline = pipeline_to(&frozen.address(), 10).await;
        // More than the kernel takes.
        let value = vec![0; 16 << 20];
        let written = timeout(Duration::from_millis(50), pipeline.call(0, &put(&value))).await;
        assert!(written.is_err());
        let shared = Rc::downgrade(&pipeline.handle.shared);
        drop(pipeline);
        until(|| Weak::strong_count(&shared) == 0).await;
        frozen.go_on();
        until(|| frozen.has_ended()).await;
        assert!(frozen.received() < value.len(), "it was sent to the end for nobody");
    });
}

#[test]
fn both_tasks_end_where_a_connection_is_given_up() {
    let frozen = Frozen::start();
    run(async {
        let pipeline = pipeline_to(&frozen.address(), 10).await;
        let value = vec![0; 16 << 20];
        let mut call = Box::pin(async { pipeline.call(0, &put(&value)).await.err() });
        assert!(is_pending(&mut call).await);
        sleep(Duration::from_millis(1)).await;
        pipeline.break_down(&ClientError::Timeout);
        assert!(matches!(call.await, Some(Unanswered::Lost(_))));
        let shared = Rc::downgrade(&pipeline.handle.shared);
        until(|| Weak::strong_count(&shared) == 1).await;
        assert!(!pipeline.is_alive());
    });
}

#[test]
fn what_waits_to_be_written_has_a_limit_and_all_of_it_is_written_in_the_end() {
    const COUNT: usize = 40;
    let frozen = Frozen::start();
    run(async {
        let pipeline = pipeline_to(&frozen.address(), COUNT as u32).await;
        let value = vec![0; 1 << 20];
        let put = put(&value);
        let mut calls: Vec<_> = (0..COUNT).map(|_| Box::pin(pipeline.call(0, &put))).collect();
        for call in &mut calls {
            assert!(is_pending(call).await);
        }
        let waits = pipeline.handle.shared.out.borrow().len();
        assert!(waits < OUT_BYTES_MAX + (2 << 20), "{waits} bytes");
        // One that gives up waiting holds nobody up.
        drop(calls.remove(COUNT / 2));
        frozen.go_on();
        let writing = async {
            while frozen.received() < (COUNT - 1) * value.len() {
                for call in &mut calls {
                    assert!(is_pending(call).await, "nothing is answered");
                }
                sleep(Duration::from_millis(1)).await;
            }
        };
        timeout(GUARD, writing).await.expect("somebody was forgotten");
    });
}
