"""The client against a server in a thread that misbehaves on demand."""

import socket
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
    Put,
    ServerError,
    UnknownOutcome,
)
from ironring._messages import Op


class ClientTest(unittest.TestCase):
    def setUp(self):
        self.server = fake.Server()
        self.addCleanup(self.server.stop)

    def client(self, **options):
        client = Client(self.server.address, **options)
        self.addCleanup(client.close)
        return client

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
