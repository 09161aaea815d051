use super::*;
use crate::message::{Condition, Retention};
use ironring_core::Durability;

fn put(session: u64) -> Request<'static> {
    let options = WriteOptions {
        durability: Durability::Local,
        session: SessionId(session),
        sequence: session,
    };
    Request::Put { options, condition: Condition::None, ttl_ms: 0, key: b"k", value: b"v" }
}

const READ: Request<'static> = Request::Get { key: b"k" };

fn refused(code: ErrorCode) -> Failure {
    Failure::Refused { code, detail: 0, message: String::new() }
}

fn lost() -> Failure {
    Failure::Lost(ClientError::Timeout)
}

/// What the last of some failures leads to.
fn after(request: Request<'_>, failures: impl IntoIterator<Item = Failure>) -> String {
    let (mut call, mut prng) = (Call::new(&request), Prng::new(1));
    let mut last = String::new();
    for failure in failures {
        last = match call.failed(failure, &mut prng) {
            Next::Again { first: Preparation { session: true, .. }, .. } => "new session".into(),
            Next::Again { .. } => "again".into(),
            Next::Stop(ClientError::Unknown { .. }) => "unknown".into(),
            Next::Stop(ClientError::Server { code, .. }) => code.name().into(),
            Next::Stop(other) => format!("{other:?}"),
        };
    }
    last
}

/// The table at the top of the module, cell by cell.
#[test]
fn each_failure_leads_where_the_table_says() {
    use ErrorCode::*;
    let (session, plain) = (put(7), put(0));
    for (request, expected) in [(READ, "again"), (session, "again"), (plain, "again")] {
        assert_eq!(after(request, [Failure::NotSent(ClientError::Timeout)]), expected);
        for code in [Overloaded, DeadlineExceeded, NotReady, NoSpace, WrongPartition, BadChecksum] {
            assert_eq!(after(request, [refused(code)]), expected, "{code:?}");
        }
    }
    for (request, expected) in [(READ, "again"), (session, "again"), (plain, "unknown")] {
        assert_eq!(after(request, [lost()]), expected);
        assert_eq!(after(request, [refused(Unknown)]), expected);
    }
    for code in [SessionExpired, SequenceGap] {
        assert_eq!(after(session, [refused(code)]), "new session");
        assert_eq!(after(plain, [refused(code)]), code.name());
    }
    assert_eq!(after(session, [lost(), refused(SessionExpired)]), "unknown");
    assert_eq!(after(session, [lost(), refused(SequenceGap)]), "new session");
    assert_eq!(after(session, [lost(), refused(SequenceGap), refused(TooLarge)]), "too_large");
    for request in [session, plain] {
        assert_eq!(after(request, [refused(ConditionFailed)]), "condition_failed");
        assert_eq!(after(request, [refused(TooLarge)]), "too_large");
    }
    assert_eq!(after(session, [lost(), refused(ConditionFailed)]), "condition_failed");
    assert_eq!(after(session, [lost(), refused(UnknownTopic)]), "unknown");
    assert_eq!(after(READ, [lost(), refused(NotFound)]), "not_found");
}

#[test]
fn what_cannot_be_told_apart_from_its_own_echo_is_not_repeated() {
    let create = Request::TopicCreate { name: "t", partitions: 1, retention: Retention::default() };
    assert_eq!(after(create, [lost()]), "unknown");
    assert_eq!(after(Request::TopicDelete { name: "t" }, [lost()]), "unknown");
}

#[test]
fn a_change_that_may_be_made_twice_is_repeated_and_stays_in_doubt() {
    let alter = Request::TopicAlter { name: "t", retention: Retention::default() };
    assert_eq!(after(alter, [lost()]), "again");
    assert_eq!(after(alter, [refused(ErrorCode::Unknown)]), "again");
    assert_eq!(after(alter, [lost(), refused(ErrorCode::UnknownTopic)]), "unknown");
    assert_eq!(after(alter, [refused(ErrorCode::UnknownTopic)]), "unknown_topic");
    let mut call = Call::new(&alter);
    call.failed(lost(), &mut Prng::new(1));
    assert!(matches!(call.out_of_time(), ClientError::Unknown { .. }));
}

#[test]
fn a_duplicate_answers_this_write_only_when_it_was_sent_before() {
    let answered = |request: Request<'_>, failures: Vec<Failure>, duplicate| {
        let (mut call, mut prng) = (Call::new(&request), Prng::new(1));
        for failure in failures {
            call.failed(failure, &mut prng);
        }
        call.answered((), duplicate)
    };
    let sure = || vec![refused(ErrorCode::Overloaded), Failure::NotSent(ClientError::Timeout)];
    for before in [vec![], sure(), vec![lost(), refused(ErrorCode::SequenceGap)]] {
        assert!(matches!(answered(put(7), before, true), Err(ClientError::Unknown { .. })));
    }
    assert!(matches!(answered(put(0), vec![], true), Err(ClientError::Unknown { .. })));
    assert!(answered(put(7), vec![lost()], true).is_ok());
    assert!(answered(put(7), vec![refused(ErrorCode::Unknown)], true).is_ok());
    assert!(answered(put(7), vec![], false).is_ok());
}

#[test]
fn an_error_code_of_a_newer_server_is_a_refusal() {
    let newer =
        || Failure::of_answer(ResponseError::UnknownCode { code: 999, message: "new".to_owned() });
    for request in [READ, put(7), put(0)] {
        assert!(after(request, [newer()]).starts_with("Protocol"));
    }
    assert_eq!(after(put(7), [lost(), newer()]), "unknown");
    let damaged = || Failure::of_answer(ResponseError::BodyChecksum { stored: 1, computed: 2 });
    assert_eq!(after(READ, [damaged()]), "again");
    assert_eq!(after(put(0), [damaged()]), "unknown");
}

#[test]
fn the_deadline_keeps_failed_and_unknown_apart() {
    let ends = |request: Request<'_>, failure: Failure| {
        let mut call = Call::new(&request);
        call.failed(failure, &mut Prng::new(1));
        call.out_of_time()
    };
    assert!(matches!(ends(put(7), lost()), ClientError::Unknown { .. }));
    assert!(matches!(ends(READ, lost()), ClientError::Timeout));
    let overloaded = ends(put(7), refused(ErrorCode::Overloaded));
    assert_eq!(overloaded.code(), Some(ErrorCode::Overloaded));
    assert!(matches!(Call::new(&READ).out_of_time(), ClientError::Timeout));
}

#[test]
fn pauses_double_with_jitter_up_to_a_limit() {
    let mut prng = Prng::new(5);
    for (first, max) in [(PAUSE_FIRST, PAUSE_MAX), (FOLLOW_PAUSE_FIRST, FOLLOW_PAUSE_MAX)] {
        for attempt in 0..40 {
            let full = first.saturating_mul(1 << attempt.min(20)).min(max);
            let pause = pause(attempt, (first, max), &mut prng);
            assert!(pause >= full / 2 && pause <= full, "{attempt}: {pause:?}");
        }
    }
    let mut call = Call::new(&READ);
    let longest = |call: &mut Call, prng: &mut Prng| {
        let not_leader =
            Failure::Refused { code: ErrorCode::NotLeader, detail: 0, message: String::new() };
        match call.failed(not_leader, prng) {
            Next::Again { pause, .. } => pause,
            other => panic!("{other:?}"),
        }
    };
    assert!(
        longest(&mut call, &mut prng) <= FOLLOW_PAUSE_FIRST,
        "a successor is looked for at once"
    );
    let later: Duration = (1..10).map(|_| longest(&mut call, &mut prng)).sum();
    assert!(later <= FOLLOW_PAUSE_MAX * 9 && later >= FOLLOW_PAUSE_MAX);
    let mut call = Call::new(&READ);
    let code = ErrorCode::Overloaded;
    let failure = Failure::Refused { code, detail: 700, message: String::new() };
    match call.failed(failure, &mut prng) {
        Next::Again { pause, .. } => assert_eq!(pause, Duration::from_millis(700)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_sequence_is_used_up_by_a_definite_answer_only() {
    let server = |code| ClientError::Server { code, detail: 0, message: String::new() };
    let (a, b) = (PartitionId(4), PartitionId(5));
    let mut sequences = Sequences::default();
    assert_eq!(sequences.next(a), None);
    sequences.opened(SessionId(9));
    let end = |sequences: &mut Sequences, partition, result: Result<(), ClientError>| {
        let (session, sequence) = sequences.next(partition).unwrap();
        let options = WriteOptions { durability: Durability::Local, session, sequence };
        sequences.ended(partition, options, &result);
        sequences.next(partition).map(|(session, sequence)| (session.0, sequence))
    };
    assert_eq!(end(&mut sequences, a, Ok(())), Some((9, 2)));
    assert_eq!(end(&mut sequences, b, Ok(())), Some((9, 2)));
    let failed = server(ErrorCode::ConditionFailed);
    assert_eq!(end(&mut sequences, a, Err(failed)), Some((9, 3)));
    assert_eq!(end(&mut sequences, a, Err(server(ErrorCode::Overloaded))), Some((9, 3)));
    let unknown = || ClientError::Unknown { reason: String::new() };
    assert_eq!(end(&mut sequences, a, Err(unknown())), None);
    sequences.opened(SessionId(10));
    assert_eq!(sequences.next(a), Some((SessionId(10), 1)));
    // The other partition is not in doubt and goes on where it was, until it is.
    assert_eq!(end(&mut sequences, b, Ok(())), Some((9, 3)));
    assert_eq!(end(&mut sequences, b, Err(unknown())), Some((10, 1)));
}

#[test]
fn an_attempt_may_take_longer_where_nothing_is_heard() {
    let first = Duration::from_millis(100);
    let timed_out =
        || ClientError::Io { address: String::new(), source: io::ErrorKind::TimedOut.into() };
    let refused = || ClientError::Io {
        address: String::new(),
        source: io::ErrorKind::ConnectionRefused.into(),
    };
    let silent = [lost(), Failure::NotSent(ClientError::Timeout), Failure::NotSent(timed_out())];
    let heard = [0; 3].map(|_| Failure::NotSent(refused()));
    for (failures, expected) in [(silent, first * 2), (heard, first)] {
        let (mut call, mut prng) = (Call::new(&READ), Prng::new(1));
        for failure in failures {
            call.failed(failure, &mut prng);
        }
        assert_eq!(call.patience(first), Some(expected));
    }
}
