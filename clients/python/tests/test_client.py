"""The client against a server in a thread that misbehaves on demand."""

import os
import random
import socket
import threading
import unittest

import fake
from ironring import (
    Client,
    ConditionFailed,
    ConnectionFailed,
    DeadlineExceeded,
    Delete,
    ErrorCode,
    InvalidRequest,
    IronringError,
    ProtocolError,
    Put,
    ServerError,
    UnknownOutcome,
)
from ironring._messages import Op, encode_frame


class Meanwhile(random.Random):
    """Does something while a call pauses between two attempts."""

    def __init__(self, act):
        super().__init__(1)
        self.act = act

    def uniform(self, least, most):
        self.act()
        return least


class ClientTest(unittest.TestCase):
    def setUp(self):
        self.server = fake.Server()
        self.addCleanup(self.server.stop)

    def client(self, **options):
        client = Client(self.server.address, **options)
        self.addCleanup(client.close)
        return client

    def other_server(self):
        other = fake.Server()
        self.addCleanup(other.stop)
        return other

    def test_keys(self):
        c = self.client()
        self.assertIsNone(c.get(b"a"))
        first = c.put(b"a", b"one")
        self.assertEqual((c.get(b"a").version, c.get(b"a").value), (first.version, b"one"))
        second = c.cas(b"a", first.version, b"two")
        with self.assertRaises(ConditionFailed) as raised:
            c.cas(b"a", first.version, b"three")
        self.assertEqual(raised.exception.current_version, second.version)
        with self.assertRaises(ConditionFailed):
            c.put_if_absent(b"a", b"x")
        c.delete(b"a", condition=second.version)
        c.put_if_absent(b"a", b"y")
        self.assertGreaterEqual(c.ping(), 0)
        self.assertEqual(c.stats(), {})

    def test_many_keys(self):
        c = self.client()
        keys = [b"key-%03d" % i for i in range(200)]
        for key in keys:
            c.put(key, key.upper())
        c.put(b"other", b"")
        asked = keys[::7] + [b"missing"]
        found = c.multi_get(asked)
        self.assertEqual([v and v.value for v in found], [k.upper() for k in keys[::7]] + [None])
        self.assertEqual(sorted(e.key for e in c.scan(b"key-", values=False)), keys)
        self.assertTrue(all(e.value == e.key.upper() for e in c.scan(b"key-1")))
        self.server.on(Op.MULTI_GET, ErrorCode.TOO_LARGE)
        self.assertEqual(len([v for v in c.multi_get([keys[0]] * 3) if v]), 3)

    def test_batch(self):
        c = self.client()
        home = c.partition_of(b"k0")
        keys = [b"k%d" % i for i in range(200)]
        same = next(k for k in keys[1:] if c.partition_of(k) == home)
        foreign = next(k for k in keys if c.partition_of(k) != home)
        c.batch([Put(b"k0", b"0"), Put(same, b"1")])
        c.batch([Delete(b"k0"), Put(same, b"2")])
        self.assertEqual([v and v.value for v in c.multi_get([b"k0", same])], [None, b"2"])
        with self.assertRaises(InvalidRequest):
            c.batch([Put(b"k0", b""), Put(foreign, b"")])
        with self.assertRaises(InvalidRequest):
            c.batch([])

    def test_topics(self):
        c = self.client()
        info = c.topic_create("t", 4, retention_ms=5)
        self.assertEqual((info.partitions, info.retention_ms), (4, 5))
        with self.assertRaises(ServerError):
            c.topic_create("t")
        self.assertEqual(c.topic_list(), [info])
        first = c.topic_append("t", [b"one", (b"k", b"two")], partition=1)
        self.assertEqual((first.partition, first.count), (1, 2))
        read = c.topic_read("t", 1)
        self.assertEqual([(r.key, r.value) for r in read.records], [(b"", b"one"), (b"k", b"two")])
        by_key = c.topic_append("t", [b"x"], key=b"abc")
        self.assertEqual(by_key.partition, 0xBA7816BF % 4)
        c.topic_trim("t", 1, first.first + 1)
        self.assertEqual(c.topic_offsets("t", 1).start, first.first + 1)
        # Another client drops the topic and makes it anew: the id is looked up again.
        other = self.client()
        other.topic_delete("t")
        other.topic_create("t", 1)
        c.topic_append("t", [b"new"], partition=0)
        self.assertEqual(len(c.topic_read("t", 0).records), 1)
        with self.assertRaises(InvalidRequest):
            c.topic_append("t", [], partition=0)

    def test_a_write_whose_answer_is_lost_is_applied_once(self):
        c = self.client()
        for i, fault in enumerate([fake.CLOSE_AFTER, fake.CLOSE_BEFORE, fake.CLOSE_AFTER]):
            self.server.on(Op.PUT, fault)
            receipt = c.put(b"k", b"%d" % i)
            self.assertEqual(receipt.duplicate, fault == fake.CLOSE_AFTER)
            self.assertEqual(c.get(b"k").value, b"%d" % i)
            self.assertEqual(self.server.applied, i + 1)

    def test_without_a_session_a_lost_answer_is_unknown(self):
        c = self.client(session=False)
        self.server.on(Op.PUT, fake.CLOSE_AFTER)
        with self.assertRaises(UnknownOutcome):
            c.put(b"k", b"v")
        self.server.on(Op.PUT, ErrorCode.UNKNOWN)
        with self.assertRaises(UnknownOutcome):
            c.put(b"k", b"v")
        self.assertEqual(self.server.count(Op.PUT), 2)
        self.server.on(Op.PUT, ErrorCode.OVERLOADED, 1)
        c.put(b"k", b"v")
        self.server.on(Op.TOPIC_CREATE, fake.CLOSE_BEFORE)
        with self.assertRaises(UnknownOutcome):
            c.topic_create("t")

    def test_reads_are_repeated(self):
        c = self.client(session=False, shard_aware=False)
        c.put(b"k", b"v")
        for fault in (fake.CLOSE_BEFORE, ErrorCode.NOT_READY, ErrorCode.UNKNOWN):
            self.server.on(Op.GET, fault)
            self.assertEqual(c.get(b"k").value, b"v")
        self.assertEqual(self.server.count(Op.CLUSTER_MAP), 0)

    def test_silence(self):
        c = self.client()
        c.put(b"k", b"1")
        c.deadline = 0.1
        self.server.on(Op.GET, fake.SILENCE)
        with self.assertRaises(DeadlineExceeded):
            c.get(b"k")
        self.server.on(Op.PUT, fake.SILENCE)
        with self.assertRaises(UnknownOutcome):
            c.put(b"k", b"2")
        c.deadline = 10
        self.assertFalse(c.put(b"k", b"3").duplicate, "taken for the write in doubt")
        self.assertEqual(c.get(b"k").value, b"3")

    def test_a_change_of_a_topic_whose_answer_is_lost_is_repeated_and_in_doubt(self):
        c = self.client()
        c.topic_create("t")
        self.server.on(Op.TOPIC_ALTER, fake.CLOSE_AFTER)
        self.assertEqual(c.topic_alter("t", retention_ms=5).retention_ms, 5)
        self.assertEqual(self.server.count(Op.TOPIC_ALTER), 2)
        with self.assertRaises(ServerError) as raised:
            c.topic_alter("other")
        self.assertEqual(raised.exception.code, ErrorCode.UNKNOWN_TOPIC)
        for doubt in (fake.CLOSE_AFTER, ErrorCode.UNKNOWN):
            # The refusal of the second attempt tells nothing of the first.
            self.server.on(Op.TOPIC_ALTER, doubt)
            self.server.on(Op.TOPIC_ALTER, ErrorCode.UNKNOWN_TOPIC)
            with self.assertRaises(UnknownOutcome):
                c.topic_alter("t", retention_ms=6)
        c.deadline = 0.1
        self.server.on(Op.TOPIC_ALTER, fake.SILENCE)
        with self.assertRaises(UnknownOutcome):
            c.topic_alter("t", retention_ms=7)

    def test_a_duplicate_of_what_was_never_applied_is_another_write(self):
        c = self.client()
        c.topic_create("t")
        writes = (
            lambda: c.put(b"k", b"v"),
            lambda: c.topic_append("t", [b"v"], partition=0).receipt,
        )
        for write in writes:
            for refused_first in (False, True):
                receipt = write()
                # Somebody else uses the next number.
                answers = self.server.answers[(self.server.sessions, receipt.partition)]
                answers.append(answers[-1])
                if refused_first:
                    self.server.on(Op.PUT, ErrorCode.OVERLOADED, 1)
                    self.server.on(Op.TOPIC_APPEND, ErrorCode.OVERLOADED, 1)
                applied = self.server.applied
                with self.assertRaises(UnknownOutcome):
                    write()
                self.assertEqual(self.server.applied, applied)
                self.server.faults.clear()
                self.assertFalse(write().duplicate)

    @unittest.skipUnless(hasattr(os, "fork"), "no fork")
    def test_a_forked_process_has_a_session_and_connections_of_its_own(self):
        c = self.client()
        c.put(b"k", b"parent")
        for i in (b"1", b"2"):
            self.assertTrue(fake.in_child(lambda: not c.put(b"k", i).duplicate))
            self.assertEqual(self.server.keys[b"k"][1], i)
        # Each new session begins at 1, and the parent goes on where it was.
        self.assertFalse(c.put(b"k", b"parent again").duplicate)
        self.assertEqual(self.server.sequences, [1, 1, 1, 2])
        self.assertEqual((self.server.applied, self.server.sessions), (4, 3))
        self.assertEqual(self.server.count(Op.HELLO), 3, "the parent's connection was lost")
        self.assertTrue(fake.in_child(lambda: c.servers == {}))

    @unittest.skipUnless(hasattr(os, "fork"), "no fork")
    def test_a_process_forked_during_a_call_does_not_wait_for_its_end(self):
        done = []

        def fork():
            thread = threading.Thread(
                target=lambda: done.append(fake.in_child(lambda: c.get(b"k") is None))
            )
            thread.start()
            thread.join()

        c = self.client(rng=Meanwhile(fork), deadline=5)
        self.server.on(Op.PUT, ErrorCode.OVERLOADED)
        c.put(b"k", b"v")
        self.assertEqual(done, [True])

    def test_threads_wait_for_each_other(self):
        receipts, threads = [], []

        def put_too():
            threads.append(threading.Thread(target=lambda: receipts.append(c.put(b"k", b"2"))))
            threads[0].start()
            # Time to get in between, for a client that lets it.
            threads[0].join(0.1)

        c = self.client(rng=Meanwhile(put_too))
        c.put(b"k", b"0")
        self.server.on(Op.PUT, ErrorCode.OVERLOADED)
        receipts.append(c.put(b"k", b"1"))
        threads[0].join()
        self.assertEqual([r.duplicate for r in receipts], [False, False])
        self.assertEqual((self.server.applied, self.server.keys[b"k"][1]), (3, b"2"))
        self.assertEqual(self.server.sequences, [1, 2, 2, 3])

    def test_a_thread_waits_for_another_until_its_deadline(self):
        ended = []

        def ping_too():
            def ping():
                try:
                    c.ping()
                except IronringError as error:
                    ended.append(type(error))

            c.deadline = 0.05
            thread = threading.Thread(target=ping)
            thread.start()
            thread.join()

        c = self.client(rng=Meanwhile(ping_too))
        self.server.on(Op.PUT, ErrorCode.OVERLOADED)
        c.put(b"k", b"v")
        self.assertEqual((ended, self.server.count(Op.PING)), ([DeadlineExceeded], 0))

    def test_what_interrupts_a_call_may_not_use_the_client(self):
        ended = []

        def interrupt():
            try:
                c.put(b"k", b"other")
            except InvalidRequest as error:
                ended.append(error)

        c = self.client(rng=Meanwhile(interrupt))
        self.server.on(Op.PUT, ErrorCode.OVERLOADED)
        self.assertFalse(c.put(b"k", b"v").duplicate)
        self.assertEqual((len(ended), self.server.applied), (1, 1))
        # It may close it: that is a lost connection like any other.
        hellos = self.server.count(Op.HELLO)
        c = self.client(rng=Meanwhile(lambda: c.close()))
        self.server.on(Op.GET, ErrorCode.OVERLOADED)
        self.assertEqual(c.get(b"k").value, b"v")
        self.assertEqual(self.server.count(Op.HELLO), hellos + 2)

    def test_an_answer_that_breaks_the_protocol_ends_its_connection(self):
        def stray(frame):
            return fake.bad_body(encode_frame(Op.PONG, 99, 0, b"?")) + frame

        c = self.client()
        unnumbered = self.client(session=False)
        for i, spoil in enumerate((fake.other_version, fake.bad_body, stray)):
            with self.subTest(spoil.__name__):
                hellos = self.server.count(Op.HELLO)
                self.server.on(Op.PUT, spoil)
                self.assertTrue(c.put(b"k", b"%d" % i).duplicate)
                self.assertEqual(self.server.count(Op.HELLO), hellos + 1)
                self.server.on(Op.PUT, spoil)
                with self.assertRaises(UnknownOutcome):
                    unnumbered.put(b"k", b"%d" % i)

    def test_only_the_handshake_looks_the_same_in_every_version(self):
        def unsupported(frame):
            op, body, status = fake.Server.error(ErrorCode.UNSUPPORTED_VERSION, 0)
            return fake.other_version(encode_frame(op, 1, 0, body, status))

        def agrees_on_another(frame):
            body = b"\2" + frame[33:]
            return encode_frame(Op.WELCOME, 1, 0, body)

        self.server.on(Op.HELLO, unsupported)
        with self.assertRaises(ServerError) as raised:
            self.client()
        self.assertEqual(raised.exception.code, ErrorCode.UNSUPPORTED_VERSION)
        self.server.on(Op.HELLO, agrees_on_another)
        with self.assertRaises(ProtocolError):
            self.client()

    def test_a_code_of_the_future_is_not_retried(self):
        c = self.client()
        self.server.on(Op.GET, fake.other_code)
        with self.assertRaises(ServerError) as raised:
            c.get(b"k")
        self.assertEqual((raised.exception.code, self.server.count(Op.GET)), (999, 1))

    def test_sequences(self):
        c = self.client()
        self.server.on(Op.PUT, ErrorCode.OVERLOADED, 1)
        self.server.on(Op.PUT, ErrorCode.NO_SPACE)
        c.put(b"k", b"1")
        self.server.on(Op.PUT, ErrorCode.TOO_LARGE)
        with self.assertRaises(ServerError):
            c.put(b"k", b"2")
        with self.assertRaises(ConditionFailed):
            c.put_if_absent(b"k", b"3")
        self.assertFalse(c.put(b"k", b"4").duplicate)
        self.assertEqual(self.server.sequences, [1, 1, 1, 2, 2, 3])

    def test_sessions_are_replaced(self):
        c = self.client()
        c.put(b"k", b"1")
        self.server.on(Op.PUT, ErrorCode.SESSION_EXPIRED)
        self.assertFalse(c.put(b"k", b"2").duplicate)
        self.server.answers.clear()
        self.assertFalse(c.put(b"k", b"3").duplicate)
        self.assertEqual(c.get(b"k").value, b"3")
        self.assertEqual(self.server.sessions, 3)

    def test_connecting(self):
        with self.assertRaises(ServerError) as raised:
            self.client(cluster="other")
        self.assertEqual(raised.exception.code, ErrorCode.WRONG_CLUSTER)
        nowhere = fake.free_address()
        with self.assertRaises(ConnectionFailed):
            Client(nowhere)
        with Client([nowhere, self.server.address], cluster="test") as c:
            c.ping()
            self.assertEqual(next(iter(c.servers.values())).node, "fake")

    def test_an_address_that_says_nothing_leaves_time_for_the_next(self):
        with socket.create_server(("127.0.0.1", 0)) as silent:
            silent.settimeout(0)
            addrs = ["127.0.0.1:%d" % silent.getsockname()[1], self.server.address]
            with Client(addrs, connect_timeout=3600, deadline=2) as c:
                c.ping()
                c.topic_list()
                c.put(b"k", b"v")
                self.server.on(Op.PING, fake.CLOSE_BEFORE)
                c.ping()
            silent.accept()[0].close()
            with self.assertRaises(BlockingIOError):
                silent.accept()

    def test_a_node_that_fell_silent_is_left_for_another(self):
        other = fake.Server()
        self.addCleanup(other.stop)
        with Client([self.server.address, other.address], attempt_timeout=0.2) as c:
            self.server.on(Op.PING, fake.SILENCE)
            c.ping()
        self.assertEqual((self.server.count(Op.PING), other.count(Op.PING)), (1, 1))

    def test_the_leader_is_found_when_the_addresses_of_the_map_lead_nowhere(self):
        other = fake.Server()
        self.addCleanup(other.stop)
        for server in (self.server, other):
            server.map_addresses = [fake.free_address()]
        with Client([self.server.address, other.address], deadline=2) as c:
            self.server.refused[Op.PUT] = ErrorCode.NOT_LEADER
            c.put(b"k", b"v")
            self.server.refused, other.refused = {}, self.server.refused
            c.put(b"k", b"v")
        self.assertEqual((self.server.applied, other.applied), (1, 1))

    def cut_off(self, epoch, leader):
        """A server that does not know that `leader` leads no more, or (itself) that it does not."""
        server = self.other_server()
        server.map_epoch, server.map_addresses = epoch, [leader or server.address]
        return server

    def test_a_leader_that_is_cut_off_is_not_believed_for_ever(self):
        old = self.cut_off(1, None)
        behind = self.cut_off(1, old.address)
        self.server.map_epoch = 2
        addrs = [old.address, behind.address, self.server.address]
        with Client(addrs, deadline=5) as c:
            c.put(b"k", b"v")
            old.refused[Op.PUT] = ErrorCode.TOO_FEW_REPLICAS
            c.put(b"k", b"w")
            c.put(b"k", b"x")
        self.assertEqual((old.applied, behind.applied, self.server.applied), (1, 0, 2))

    def test_a_leader_that_is_cut_off_is_not_asked_for_ever_when_none_is_routed(self):
        self.server.refused[Op.PUT] = ErrorCode.TOO_FEW_REPLICAS
        for session in (False, True):
            other = self.other_server()
            addrs = [self.server.address, other.address]
            with Client(addrs, session=session, shard_aware=False, deadline=2) as c:
                c.put(b"k", b"v")
            self.assertEqual(other.applied, 1)

    def test_a_client_that_does_not_route_begins_to_when_it_must(self):
        leader = self.other_server()
        self.server.map_addresses = leader.map_addresses = [leader.address]
        for op in (Op.PUT, Op.GET, Op.TOPIC_APPEND):
            self.server.refused[op] = ErrorCode.NOT_LEADER
        for server in (self.server, leader):
            with Client(server.address, session=False, shard_aware=False) as c:
                c.topic_create("t")
        options = {"session": False, "shard_aware": False, "deadline": 2}
        self.client(**options).put(b"k", b"v")
        self.assertEqual(self.client(**options).get(b"k").value, b"v")
        self.client(**options).topic_append("t", [b"one"], partition=0)
        self.client(**options).topic_append("t", [b"two"], key=b"k")
        for op, count in ((Op.PUT, 1), (Op.GET, 1), (Op.TOPIC_APPEND, 2)):
            self.assertEqual((self.server.count(op), leader.count(op)), (count, count))

    def test_a_read_that_may_be_old_asks_the_replicas_of_the_map(self):
        other = fake.Server()
        self.addCleanup(other.stop)
        other.keys[b"k"] = (1, b"v")
        self.server.map_addresses = [self.server.address, other.address]
        self.server.refused[Op.GET] = ErrorCode.NOT_READY
        c = self.client()
        for _ in range(2):
            self.assertEqual(c.get_stale(b"k").value.value, b"v")
        self.assertEqual(self.server.count(Op.CLUSTER_MAP), 1)
        self.server.on(Op.CLUSTER_MAP, fake.CLOSE_BEFORE)
        with self.assertRaises(ServerError) as raised:
            self.client().get_stale(b"k")
        self.assertEqual(raised.exception.code, ErrorCode.NOT_READY)
        self.server.refused.clear()
        self.assertIsNone(self.client().get_stale(b"k").value, "those given come first")

    def test_all_that_a_call_takes_shares_its_deadline(self):
        c = self.client(attempt_timeout=0.2, deadline=1)
        for op in (Op.CLUSTER_MAP, Op.OPEN_SESSION, Op.PUT):
            self.server.on(op, fake.SILENCE)
        # Each silence is waited for close to half the deadline.
        with self.assertRaises(IronringError):
            c.put(b"k", b"v")
        c.put(b"k", b"w")

    def test_what_breaks_a_rule_is_not_sent(self):
        c = self.client()
        for call in (lambda: c.put(b"", b""), lambda: c.put(b"k" * 1025, b"")):
            with self.assertRaises(InvalidRequest):
                call()
        with self.assertRaises(TypeError):
            c.put("k", b"")
        self.assertEqual(self.server.count(Op.PUT), 0)


if __name__ == "__main__":
    unittest.main()
