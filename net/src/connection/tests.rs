use super::*;
use crate::codec::{decode_response, encode_request};
use crate::frame::{HEADER_BYTES, decode_header};
use crate::message::{Condition, ValueRef, WriteOptions};
use ironring_core::{Durability, Offset, SessionId, WallTime};

fn at(ms: u64) -> Instant {
    Instant(ms * 1_000_000)
}

fn identity() -> Arc<Identity> {
    Arc::new(Identity {
        cluster: "prod".into(),
        node: "n1".into(),
        server: "0.1.0".into(),
        storage: StorageUuid(7),
        shard: 3,
        features: crate::features::SHARD_AWARE,
    })
}

fn limited(limits: Limits) -> Connection {
    Connection::new(identity(), limits, at(0))
}

fn frame(correlation: u64, request: &Request<'_>) -> Vec<u8> {
    let mut out = Vec::new();
    encode_request(&mut out, correlation, 0, request).unwrap();
    out
}

fn hello_of(min: u8, max: u8, cluster: &str) -> Vec<u8> {
    let features = 0b11;
    let client = "test";
    let hello = Request::Hello { version_min: min, version_max: max, features, cluster, client };
    frame(1, &hello)
}

fn hello() -> Vec<u8> {
    hello_of(1, 1, "")
}

fn put(correlation: u64, value: &[u8]) -> Vec<u8> {
    let options =
        WriteOptions { durability: Durability::Local, session: SessionId::NONE, sequence: 0 };
    let condition = Condition::None;
    frame(correlation, &Request::Put { options, condition, ttl_ms: 0, key: b"k", value })
}

/// Feeds in pieces as a driver does, and takes out what comes. Only while the connection reads.
fn feed(connection: &mut Connection, bytes: &[u8], piece: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    for piece in bytes.chunks(piece) {
        assert!(connection.wants_read());
        connection.feed(at(1), piece);
        seen.extend(drain(connection));
    }
    seen
}

fn drain(connection: &mut Connection) -> Vec<u64> {
    let mut seen = Vec::new();
    while let Ok(Some(frame)) = connection.next_frame() {
        frame.decode().unwrap();
        seen.push(frame.header.correlation);
    }
    seen
}

/// What the peer would read: (correlation, error code or none), all of it taken.
fn answers(connection: &mut Connection) -> Vec<(u64, Option<ErrorCode>)> {
    let bytes = connection.output().bytes().to_vec();
    connection.output().sent(at(2), bytes.len());
    parse(&bytes)
}

fn parse(mut bytes: &[u8]) -> Vec<(u64, Option<ErrorCode>)> {
    let mut seen = Vec::new();
    while !bytes.is_empty() {
        let header = decode_header(bytes).unwrap();
        let (frame, rest) = bytes.split_at(header.frame_bytes());
        let code = match decode_response(&header, &frame[HEADER_BYTES..]).unwrap() {
            Response::Error { code, .. } => Some(code),
            _ => None,
        };
        seen.push((header.correlation, code));
        bytes = rest;
    }
    seen
}

/// A connection whose handshake is done and answered.
fn open(limits: Limits) -> Connection {
    let mut connection = limited(limits);
    assert!(feed(&mut connection, &hello(), 1000).is_empty());
    assert_eq!(answers(&mut connection), [(1, None)]);
    connection
}

#[test]
fn the_handshake_is_answered_with_what_both_have() {
    let mut connection = limited(Limits::default());
    connection.feed(at(1), &hello_of(1, 9, "prod"));
    assert_eq!(connection.next_frame(), Ok(None));
    let bytes = connection.output().bytes().to_vec();
    let header = decode_header(&bytes).unwrap();
    match decode_response(&header, &bytes[HEADER_BYTES..]).unwrap() {
        Response::Welcome(welcome) => {
            assert_eq!((welcome.version, welcome.features, welcome.shard), (1, 1, 3));
            assert_eq!((welcome.cluster, welcome.node, welcome.server), ("prod", "n1", "0.1.0"));
            assert_eq!(welcome.storage, StorageUuid(7));
            assert_eq!(welcome.frame_bytes_max as usize, FRAME_BODY_BYTES_MAX);
            assert_eq!((welcome.in_flight_max, welcome.key_bytes_max), (1024, 1024));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(connection.peer().map(|peer| peer.client.as_str()), Some("test"));
    assert_eq!(connection.output().in_flight(), 0);
}

#[test]
fn a_handshake_that_cannot_work_is_answered_then_closed() {
    let ping = frame(8, &Request::Ping);
    let mut bad_body = hello();
    *bad_body.last_mut().unwrap() ^= 1;
    let cases: [(Vec<u8>, u64, ErrorCode); 6] = [
        (ping, 8, ErrorCode::HandshakeRequired),
        (hello_of(2, 9, ""), 1, ErrorCode::UnsupportedVersion),
        (hello_of(0, 0, ""), 1, ErrorCode::UnsupportedVersion),
        (hello_of(3, 1, ""), 1, ErrorCode::UnsupportedVersion),
        (hello_of(1, 1, "test"), 1, ErrorCode::WrongCluster),
        (bad_body, 1, ErrorCode::BadChecksum),
    ];
    for (bytes, correlation, code) in cases {
        let mut connection = limited(Limits::default());
        connection.feed(at(1), &bytes);
        let reason = connection.next_frame().unwrap_err();
        assert_eq!(connection.next_frame(), Err(reason), "the reason stays");
        assert!(!connection.wants_read() && !connection.is_finished());
        assert_eq!(answers(&mut connection), [(correlation, Some(code))], "{reason}");
        assert!(connection.is_finished());
    }
}

#[test]
fn the_version_error_names_both_ranges() {
    let mut connection = limited(Limits::default());
    connection.feed(at(1), &hello_of(5, 7, ""));
    connection.next_frame().unwrap_err();
    let text = String::from_utf8_lossy(connection.output().bytes()).into_owned();
    assert!(text.contains("5 to 7") && text.contains("the server 1 to 1"), "{text}");
}

#[test]
fn a_stranger_is_told_at_its_fourth_byte() {
    let mut connection = limited(Limits::default());
    connection.feed(at(1), b"GE");
    assert_eq!(connection.next_frame(), Ok(None));
    connection.feed(at(1), b"T / HTTP/1.1\r\n");
    let expected = CloseReason::Frame(FrameError::BadMagic { got: *b"GET " });
    assert_eq!(connection.next_frame(), Err(expected));
    assert_eq!(answers(&mut connection), [(0, Some(ErrorCode::Malformed))]);
}

#[test]
fn before_the_handshake_only_little_is_taken() {
    let mut connection = limited(Limits::default());
    connection.feed(at(1), &put(4, &[0; 2000])[..HEADER_BYTES]);
    assert!(matches!(connection.next_frame(), Err(CloseReason::Frame(_))));
    assert_eq!(answers(&mut connection), [(4, Some(ErrorCode::TooLarge))]);
}

#[test]
fn frames_come_out_whole_however_the_bytes_arrive() {
    let mut stream = hello();
    for correlation in 10..40u64 {
        let size = [0, 1, 31, 32, 33, 5000, 70_000][correlation as usize % 7];
        stream.extend(put(correlation, &vec![correlation as u8; size]));
    }
    for piece in [1, 7, 32, 33, 4096, RECEIVE_BYTES_MAX] {
        let mut connection = limited(Limits::default());
        let seen = feed(&mut connection, &stream, piece);
        assert_eq!(seen, (10..40).collect::<Vec<_>>(), "in pieces of {piece}");
        assert_eq!(connection.output().in_flight(), 30);
    }
}

#[test]
fn bodies_arrive_intact_in_place() {
    let mut connection = open(Limits::default());
    let mut stream = Vec::new();
    for i in 0..200u64 {
        stream.extend(put(i, &vec![i as u8; (i as usize * 977) % 3000]));
    }
    let mut next = 0u64;
    for piece in stream.chunks(1000) {
        connection.receive_space(piece.len())[..piece.len()].copy_from_slice(piece);
        connection.received(at(1), piece.len());
        while let Some((frame, output)) = connection.next_frame_and_output().unwrap() {
            match frame.decode().unwrap() {
                Request::Put { value, .. } => {
                    assert_eq!(value, vec![next as u8; (next as usize * 977) % 3000]);
                }
                other => panic!("{other:?}"),
            }
            output.respond(at(1), frame.header.correlation, &Response::Pong);
            next += 1;
        }
    }
    assert_eq!(next, 200);
    let expected: Vec<_> = (0..200).map(|i| (i, None)).collect();
    assert_eq!(answers(&mut connection), expected);
}

#[test]
fn memory_follows_a_large_frame_up_and_down() {
    let mut connection = open(Limits::default());
    let big = put(5, &vec![1; 4 << 20]);
    let (head, rest) = big.split_at(40_000);
    feed(&mut connection, head, 1000);
    let promised = connection.input.memory();
    assert!(promised <= 128 << 10, "grew to {promised} on a promise");
    assert_eq!(feed(&mut connection, rest, 60_000), [5]);
    let grown = connection.input.memory();
    assert!((4 << 20..10 << 20).contains(&grown), "{grown}");
    feed(&mut connection, &put(6, b"small"), 1000);
    assert!(connection.input.memory() <= 64 << 10);
    connection.release_memory(0);
    assert_eq!(connection.input.memory(), 0);
}

#[test]
fn a_large_frame_followed_by_half_a_small_one_shrinks_too() {
    let mut connection = open(Limits::default());
    let mut stream = put(5, &vec![1; 2 << 20]);
    let next = put(6, &[9; 500]);
    stream.extend(&next[..300]);
    assert_eq!(feed(&mut connection, &stream, 50_000), [5]);
    assert_eq!(feed(&mut connection, &next[300..], 100), [6]);
    assert!(connection.input.memory() <= 64 << 10, "{}", connection.input.memory());
}

#[test]
fn memory_that_is_needed_again_at_once_is_kept_for_a_while() {
    let mut connection = open(Limits::default());
    feed(&mut connection, &put(1, &[1; 70_000]), 65_536);
    let grown = connection.input.memory();
    assert!(grown > 64 << 10);
    for i in 2..16 {
        feed(&mut connection, &put(i, b""), 1000);
        assert_eq!(connection.input.memory(), grown);
    }
    feed(&mut connection, &put(16, &[1; 70_000]), 65_536);
    assert_eq!(connection.input.memory(), grown);
    for i in 17..40 {
        feed(&mut connection, &put(i, b""), 1000);
    }
    assert!(connection.input.memory() <= 64 << 10);
}

#[test]
fn no_more_than_the_limit_are_in_flight() {
    let mut connection = open(Limits { in_flight_max: 3, ..Limits::default() });
    let stream: Vec<u8> = (10..20).flat_map(|i| put(i, b"v")).collect();
    connection.feed(at(1), &stream);
    assert_eq!(drain(&mut connection), [10, 11, 12]);
    assert!(!connection.wants_read());
    connection.output().respond(at(2), 11, &Response::Pong);
    assert!(connection.wants_read());
    assert_eq!(drain(&mut connection), [13]);
    for i in [10, 12, 13] {
        connection.output().respond(at(2), i, &Response::Pong);
    }
    assert_eq!(drain(&mut connection), [14, 15, 16]);
}

#[test]
#[should_panic(expected = "one answer for each frame yielded")]
fn answering_more_than_was_asked_is_a_bug() {
    let mut connection = open(Limits::default());
    connection.output().respond(at(2), 11, &Response::Pong);
}

fn large(value: &[u8]) -> Response<'_> {
    let version = Offset(1);
    Response::Value(ValueRef { version, time: WallTime(1), expires: WallTime(0), value })
}

#[test]
fn nothing_is_read_while_the_peer_does_not_take_its_answers() {
    let mut connection = open(Limits { output_bytes_pause: 1000, ..Limits::default() });
    connection.feed(at(1), &[put(1, b""), put(2, b""), put(3, b"")].concat());
    let first = connection.next_frame().unwrap().map(|frame| frame.header.correlation);
    assert_eq!(first, Some(1));
    connection.output().respond(at(1), 1, &large(&[0; 1000]));
    assert!(!connection.wants_read());
    assert_eq!(connection.next_frame(), Ok(None));
    let pending = connection.output().pending_bytes();
    connection.output().sent(at(1), pending - 999);
    assert!(connection.wants_read());
    assert_eq!(drain(&mut connection), [2, 3]);
}

#[test]
fn piled_up_data_becomes_overloaded_and_receipts_get_through() {
    let limits = Limits { output_bytes_pause: 100, output_bytes_max: 2000, ..Limits::default() };
    let mut connection = open(limits);
    let stream: Vec<u8> = (1..=4).flat_map(|i| put(i, b"v")).collect();
    connection.feed(at(1), &stream);
    assert_eq!(drain(&mut connection).len(), 4);
    connection.output().respond(at(1), 1, &large(&[0; 1990]));
    connection.output().respond(at(1), 2, &large(&[0; 10]));
    connection.output().respond(at(1), 3, &Response::Session(SessionId(4)));
    connection.output().respond(at(1), 4, &large(&[]));
    let overloaded = Some(ErrorCode::Overloaded);
    assert_eq!(answers(&mut connection), [(1, None), (2, overloaded), (3, None), (4, overloaded)]);
}

#[test]
fn beyond_every_limit_the_connection_is_cut() {
    let limits = Limits { output_bytes_pause: 1, output_bytes_max: 1, ..Limits::default() };
    let mut connection = open(limits);
    let count = 900;
    let stream: Vec<u8> = (0..count).flat_map(|i| put(i, b"")).collect();
    connection.feed(at(1), &stream[..RECEIVE_BYTES_MAX]);
    drain(&mut connection);
    let message = "m".repeat(1024);
    let code = ErrorCode::NotFound;
    let error = Response::Error { code, detail: 0, message: &message };
    let mut largest = 0;
    // Answers of the connection itself are not bounded by what is in flight.
    while connection.close_reason().is_none() {
        connection.output().answer(0, &error);
        largest = largest.max(connection.output().pending_bytes());
    }
    assert_eq!(connection.close_reason(), Some(CloseReason::OutputOverflow));
    assert!(connection.is_finished() && !connection.wants_write());
    assert!(largest <= FRAME_BODY_BYTES_MAX + (1 << 20) + HEADER_BYTES + 1);
    connection.output().respond(at(1), 0, &error);
    assert!(!connection.wants_write(), "nothing is collected for a connection that is cut");
}

#[test]
fn a_bad_body_costs_one_request_only() {
    let mut connection = open(Limits::default());
    let mut damaged = put(5, b"value");
    *damaged.last_mut().unwrap() ^= 1;
    connection.feed(at(1), &[damaged, put(6, b"value")].concat());
    let frame = connection.next_frame().unwrap().unwrap();
    let error = frame.decode().unwrap_err();
    connection.output().refuse(at(1), 5, &error);
    assert_eq!(drain(&mut connection), [6]);
    assert_eq!(answers(&mut connection), [(5, Some(ErrorCode::BadChecksum))]);
}

#[test]
fn a_bad_header_closes_after_the_answers_that_are_due() {
    let mut connection = open(Limits::default());
    let mut damaged = put(7, b"value");
    damaged[20] ^= 1;
    connection.feed(at(1), &[put(6, b"value"), damaged].concat());
    assert_eq!(drain(&mut connection), [6]);
    assert!(matches!(connection.close_reason(), Some(CloseReason::Frame(_))));
    assert_eq!(answers(&mut connection), [(0, Some(ErrorCode::BadChecksum))]);
    assert!(!connection.is_finished(), "request 6 is still to be answered");
    connection.output().respond(at(1), 6, &Response::Pong);
    assert_eq!(answers(&mut connection), [(6, None)]);
    assert!(connection.is_finished());
}

#[test]
fn an_oversized_frame_is_answered_by_name_before_its_body_comes() {
    let mut connection = open(Limits { frame_bytes_max: 2000, ..Limits::default() });
    connection.feed(at(1), &put(6, &[0; 1900]));
    assert_eq!(drain(&mut connection), [6]);
    connection.feed(at(1), &put(7, &[0; 2000])[..HEADER_BYTES]);
    assert!(matches!(
        connection.next_frame(),
        Err(CloseReason::Frame(FrameError::BodyTooLong { max: 2000, correlation: 7, .. }))
    ));
    assert_eq!(answers(&mut connection), [(7, Some(ErrorCode::TooLarge))]);
}

#[test]
fn a_second_hello_and_another_version_are_refused() {
    let mut connection = open(Limits::default());
    connection.feed(at(1), &[hello(), put(6, b"")].concat());
    assert_eq!(drain(&mut connection), [6]);
    assert_eq!(answers(&mut connection), [(1, Some(ErrorCode::InvalidArgument))]);
    let other = put(9, b"");
    let header = Header { version: 2, ..decode_header(&other).unwrap() };
    connection.feed(at(1), &[&header.encode(), &other[HEADER_BYTES..]].concat());
    let expected = CloseReason::VersionChanged { got: 2, agreed: 1 };
    assert_eq!(connection.next_frame(), Err(expected));
    assert_eq!(answers(&mut connection), [(9, Some(ErrorCode::UnsupportedVersion))]);
}

#[test]
fn a_peer_that_closed_still_gets_its_answers() {
    let mut connection = open(Limits { in_flight_max: 1, ..Limits::default() });
    connection.feed(at(1), &[put(6, b""), put(7, b"")].concat());
    connection.peer_closed();
    assert!(!connection.wants_read());
    assert_eq!(drain(&mut connection), [6]);
    assert_eq!(connection.close_reason(), None);
    connection.output().respond(at(1), 6, &Response::Pong);
    assert_eq!(drain(&mut connection), [7]);
    connection.output().respond(at(1), 7, &Response::Pong);
    assert_eq!(connection.next_frame(), Err(CloseReason::PeerClosed));
    assert_eq!(answers(&mut connection), [(6, None), (7, None)]);
    assert!(connection.is_finished());
}

#[test]
fn after_a_failed_write_requests_are_yielded_and_nothing_more_is_sent() {
    let mut connection = open(Limits { in_flight_max: 2, ..Limits::default() });
    connection.feed(at(1), &[put(6, b""), put(7, b""), put(8, b""), put(9, b"")].concat());
    let header = connection.next_frame().unwrap().map(|frame| frame.header.correlation);
    assert_eq!(header, Some(6));
    connection.output().respond(at(1), 6, &Response::Pong);
    // Part of the answer is on its way: what follows would be read as the rest of it.
    connection.output().sent(at(1), 10);
    connection.write_failed();
    assert!(!connection.wants_write() && !connection.wants_read());
    assert_eq!(drain(&mut connection), [7, 8]);
    assert!(!connection.is_finished(), "two are under way");
    for (correlation, next) in [(7, Some(9)), (8, None), (9, None)] {
        connection.output().respond(at(1), correlation, &Response::Pong);
        assert_eq!(
            drain(&mut connection),
            Vec::from_iter(next),
            "a dropped answer makes room as well"
        );
    }
    assert_eq!(connection.output().bytes(), b"");
    assert_eq!(connection.next_frame(), Err(CloseReason::PeerClosed));
    assert!(connection.is_finished());
}

#[test]
fn half_a_frame_at_the_end_is_noticed() {
    let mut connection = open(Limits::default());
    connection.feed(at(1), &put(6, b"value")[..50]);
    assert_eq!(connection.next_frame(), Ok(None));
    connection.peer_closed();
    let expected = CloseReason::PeerClosedMidFrame { bytes: 50 };
    assert_eq!(connection.next_frame(), Err(expected));
    assert!(connection.is_finished());
}

#[test]
fn a_stopping_node_answers_what_it_took() {
    let mut connection = open(Limits::default());
    connection.feed(at(1), &put(6, b""));
    assert_eq!(drain(&mut connection), [6]);
    connection.shut_down();
    assert!(!connection.wants_read() && !connection.is_finished());
    connection.output().respond(at(1), 6, &Response::Pong);
    assert_eq!(answers(&mut connection), [(6, None)]);
    assert!(connection.is_finished());
    assert_eq!(connection.close_reason(), Some(CloseReason::Shutdown));
}

#[test]
fn bytes_taken_by_the_driver_count_until_they_are_sent() {
    let mut connection = open(Limits { output_bytes_pause: 100, ..Limits::default() });
    connection.feed(at(1), &[put(1, b""), put(2, b"")].concat());
    assert_eq!(drain(&mut connection), [1, 2]);
    connection.output().respond(at(1), 1, &large(&[0; 100]));
    let taken = connection.output().take(Vec::new());
    assert!(!connection.wants_read(), "on the way is not received");
    connection.output().respond(at(1), 2, &Response::Pong);
    assert_eq!(connection.output().pending_bytes(), taken.len() + HEADER_BYTES);
    connection.output().sent(at(2), 10);
    connection.output().sent(at(2), taken.len() - 10);
    assert!(connection.wants_read());
    assert_eq!(parse(&taken), [(1, None)]);
    let taken = connection.output().take(taken);
    assert_eq!(parse(&taken), [(2, None)]);
}

#[test]
fn partly_written_output_goes_on_where_it_stopped() {
    let mut connection = open(Limits::default());
    let stream: Vec<u8> = (0..100).flat_map(|i| put(i, b"")).collect();
    connection.feed(at(1), &stream);
    drain(&mut connection);
    let mut received = Vec::new();
    for i in 0..100 {
        connection.output().respond(at(1), i, &large(&[i as u8; 3000]));
        let len = connection.output().bytes().len().min(2000);
        received.extend_from_slice(&connection.output().bytes()[..len]);
        connection.output().sent(at(1), len);
    }
    received.extend_from_slice(connection.output().bytes());
    assert_eq!(parse(&received), (0..100).map(|i| (i, None)).collect::<Vec<_>>());
}

#[test]
fn a_peer_that_does_nothing_is_let_go() {
    let timeouts = Timeouts::default();
    let at_s = |s: u64| at(1000 * s);

    let mut silent = limited(Limits::default());
    assert_eq!(silent.timeout_at(&timeouts), Some(at_s(10)));
    assert_eq!(silent.on_timeout(at_s(9), &timeouts), None);
    assert_eq!(silent.on_timeout(at_s(10), &timeouts), Some(CloseReason::HandshakeTimeout));
    assert!(silent.is_finished());

    // Bytes now and then do not put the handshake off.
    let mut slow = limited(Limits::default());
    slow.feed(at_s(9), &hello()[..10]);
    assert_eq!(slow.next_frame(), Ok(None));
    assert_eq!(slow.timeout_at(&timeouts), Some(at_s(10)));

    let mut idle = open(Limits::default());
    assert_eq!(idle.timeout_at(&timeouts), Some(at(2) + timeouts.idle));
    assert_eq!(idle.on_timeout(at_s(301), &timeouts), Some(CloseReason::Idle));

    let mut half = open(Limits::default());
    half.feed(at_s(50), &put(6, b"")[..40]);
    assert_eq!(half.next_frame(), Ok(None));
    assert_eq!(half.timeout_at(&timeouts), Some(at_s(80)));
    assert_eq!(half.on_timeout(at_s(80), &timeouts), Some(CloseReason::Stalled));
}

#[test]
fn waiting_for_the_server_is_not_the_peers_fault() {
    let timeouts = Timeouts::default();
    let mut connection = open(Limits { in_flight_max: 1, ..Limits::default() });
    connection.feed(at(1000), &[&put(1, b"")[..], &put(2, b"")[..40]].concat());
    assert_eq!(drain(&mut connection), [1]);
    assert_eq!(connection.timeout_at(&timeouts), None, "half of request 2 waits for the server");
    // The answer comes after a long time: the peer gets its full time to take it.
    connection.output().respond(at(100_000), 1, &Response::Pong);
    assert_eq!(connection.timeout_at(&timeouts), Some(at(130_000)));
    // Another answer does not put it off.
    connection.output().answer(2, &Response::Pong);
    assert_eq!(connection.on_timeout(at(130_000), &timeouts), Some(CloseReason::Stalled));
    assert!(connection.is_finished());
}
