"""The client against a real node: IRONRING_BIN=/path/to/ironring."""

import os
import pathlib
import random
import shutil
import socket
import struct
import subprocess
import tempfile
import time
import unittest

import fake
from ironring import (
    ABSENT,
    EARLIEST,
    LATEST,
    AtTime,
    Client,
    ConditionFailed,
    ConnectionFailed,
    Delete,
    Durability,
    ErrorCode,
    IronringError,
    Put,
    ServerError,
)
from ironring import _messages as m
from ironring._connection import Connection

BINARY = os.environ.get("IRONRING_BIN")

# How long a node may take to start. Generous: it is no measure of speed.
START_SECONDS = 60


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


class Node:
    """One process on a directory of its own."""

    def __init__(self):
        self.directory = tempfile.mkdtemp(prefix="ironring-live-")
        self.data_dir = pathlib.Path(self.directory) / "data"
        self.log = open(pathlib.Path(self.directory) / "log", "ab")
        self.address = f"127.0.0.1:{free_port()}"
        self.process = None

    def start(self):
        command = [BINARY, "start", "--data-dir", str(self.data_dir)]
        command += ["--listen", self.address, "--peers", "127.0.0.1:0", "--shards", "1"]
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log)
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                with Client(self.address, deadline=5) as client:
                    client.ping()
                    client.get(b"readiness")
                return
            except IronringError as error:
                if self.process.poll() is not None or time.monotonic() > until:
                    raise AssertionError(f"the node did not start: {error}\n{self.tail()}")
                time.sleep(0.05)

    def tail(self):
        return (pathlib.Path(self.directory) / "log").read_text(errors="replace")[-4000:]

    def kill(self):
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def remove(self):
        self.kill()
        self.log.close()
        shutil.rmtree(self.directory, ignore_errors=True)


@unittest.skipUnless(BINARY, "IRONRING_BIN is not set: no node to test against")
class Live(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.node = Node()
        cls.addClassCleanup(cls.node.remove)
        cls.node.start()

    def setUp(self):
        self.client = Client(self.node.address, rng=random.Random(1))
        self.addCleanup(self.client.close)
        # Each test has keys and topics of its own.
        self.prefix = self.id().rpartition(".")[2].encode() + b"/"
        self.topic = self.id().rpartition(".")[2].replace("test_", "")

    def key(self, name):
        return self.prefix + name

    def raw(self):
        connection = Connection(self.node.address, m.hello(0, "", "live"), time.monotonic() + 10)
        self.addCleanup(connection.close)
        return connection

    def exchange(self, connection, op, body, expected):
        until = time.monotonic() + 10
        return connection.exchange(op, body, expected, until, until)

    def test_put_get_delete(self):
        c, key = self.client, self.key(b"k")
        self.assertIsNone(c.get(key))
        receipt = c.put(key, b"value")
        self.assertFalse(receipt.duplicate)
        self.assertGreaterEqual(receipt.durability, Durability.LOCAL)
        self.assertEqual(receipt.partition, c.partition_of(key))
        value = c.get(key)
        self.assertEqual((value.value, value.version, value.expires), (b"value", receipt.version, 0))
        self.assertGreater(value.time, 1_600_000_000_000)
        again = c.put(key, b"")
        self.assertGreater(again.version, receipt.version)
        self.assertEqual(c.get(key).value, b"")
        c.delete(key)
        self.assertIsNone(c.get(key))
        c.delete(key)

    def test_values_of_all_sizes(self):
        c, rng = self.client, random.Random(2)
        sizes = [0, 1, 4095, 4096, 65_536, 262_144, 262_145, 1 << 20, 5_000_000]
        values = {size: rng.getrandbits(8 * size).to_bytes(size, "little") for size in sizes}
        for size, value in values.items():
            c.put(self.key(b"%d" % size), value)
        for size, value in values.items():
            with self.subTest(size):
                self.assertEqual(c.get(self.key(b"%d" % size)).value, value)

    def test_longest_key(self):
        key = self.prefix.ljust(m.KEY_BYTES_MAX, b"x")
        self.client.put(key, b"v")
        self.assertEqual(self.client.get(key).value, b"v")

    def test_conditions(self):
        c, key = self.client, self.key(b"k")
        with self.assertRaises(ConditionFailed) as raised:
            c.cas(key, 1, b"x")
        self.assertEqual(raised.exception.current_version, 0)
        first = c.put_if_absent(key, b"one")
        with self.assertRaises(ConditionFailed) as raised:
            c.put_if_absent(key, b"two")
        self.assertEqual(raised.exception.current_version, first.version)
        second = c.cas(key, first.version, b"two")
        with self.assertRaises(ConditionFailed) as raised:
            c.delete(key, condition=first.version)
        self.assertEqual(raised.exception.current_version, second.version)
        c.delete(key, condition=second.version)
        c.put(key, b"three", condition=ABSENT)
        self.assertEqual(c.get(key).value, b"three")

    def test_every_durability(self):
        for level in Durability:
            receipt = self.client.put(self.key(b"k"), b"v", durability=level)
            self.assertGreaterEqual(receipt.durability, level)

    def test_ttl(self):
        c, key = self.client, self.key(b"k")
        c.put(key, b"v", ttl=3600)
        value = c.get(key)
        self.assertEqual(value.expires - value.time, 3_600_000)
        c.put(key, b"v", ttl=0.05)
        until = time.monotonic() + 30
        while c.get(key) is not None:
            self.assertLess(time.monotonic(), until, "it does not expire")
            time.sleep(0.02)
        c.put_if_absent(key, b"again")

    def same_partition(self, count):
        c = self.client
        home = c.partition_of(self.key(b"0"))
        keys = (self.key(b"%d" % i) for i in range(1_000_000))
        found = [key for _, key in zip(range(count), (k for k in keys if c.partition_of(k) == home))]
        return found

    def test_batch(self):
        c = self.client
        a, b, d = self.same_partition(3)
        c.put(d, b"old")
        receipt = c.batch([Put(a, b"1"), Put(b, b"2", ABSENT), Delete(d)])
        values = c.multi_get([a, b, d])
        self.assertEqual([v and v.value for v in values], [b"1", b"2", None])
        # Each operation has a version of its own; the receipt has that of the last.
        versions = [v.version for v in values[:2]]
        self.assertEqual(versions, [receipt.version - 2, receipt.version - 1])
        with self.assertRaises(ConditionFailed) as raised:
            c.batch([Put(a, b"x"), Put(b, b"x", ABSENT)])
        self.assertEqual(raised.exception.current_version, receipt.version - 1)
        self.assertEqual(c.get(a).value, b"1")

    def test_multi_get_and_scan(self):
        c = self.client
        keys = [self.key(b"%04d" % i) for i in range(500)]
        for key in keys:
            c.put(key, key[::-1], durability=Durability.ASYNC)
        found = c.multi_get(keys + [self.key(b"missing")])
        self.assertEqual([v and v.value for v in found], [k[::-1] for k in keys] + [None])
        entries = list(c.scan(self.prefix))
        self.assertEqual(sorted(e.key for e in entries), keys)
        self.assertTrue(all(e.value == e.key[::-1] and e.version > 0 for e in entries))
        self.assertTrue(all(e.value is None for e in c.scan(self.prefix, values=False)))
        in_order = {}
        for entry in entries:
            in_order.setdefault(c.partition_of(entry.key), []).append(entry.key)
        self.assertTrue(all(part == sorted(part) for part in in_order.values()))

    def test_a_scan_page_by_page(self):
        c = self.client
        keys = sorted(self.same_partition(7))
        for key in keys:
            c.put(key, b"v")
        raw, partition, after, seen = self.raw(), c.partition_of(keys[0]), b"", []
        more = True
        while more:
            body = m.scan(partition, self.prefix, after, 2, False)
            entries, more = self.exchange(raw, m.Op.SCAN, body, m.Op.PAGE)
            self.assertLessEqual(len(entries), 2)
            seen += [entry.key for entry in entries]
            after = seen[-1] if seen else b""
        self.assertEqual(seen, keys)

    def test_topics(self):
        c, name = self.client, self.topic
        info = c.topic_create(name, 3, retention_ms=86_400_000)
        self.assertEqual((info.name, info.partitions, info.retention_ms), (name, 3, 86_400_000))
        with self.assertRaises(ServerError) as raised:
            c.topic_create(name, 3)
        self.assertEqual(raised.exception.code, ErrorCode.TOPIC_EXISTS)
        self.assertIn(info, c.topic_list())
        altered = c.topic_alter(name, retention_bytes=1 << 30)
        self.assertEqual((altered.retention_ms, altered.retention_bytes), (0, 1 << 30))
        begin = c.topic_offsets(name, 1)
        first = c.topic_append(name, [b"a", (b"k", b"b"), b"c"], partition=1)
        self.assertEqual((first.first, first.partition, first.count), (begin.end, 1, 3))
        second = c.topic_append(name, [b"d"], partition=1)
        self.assertEqual(second.first, first.first + 3)
        read = c.topic_read(name, 1, EARLIEST)
        self.assertEqual([r.value for r in read.records], [b"a", b"b", b"c", b"d"])
        self.assertEqual([r.key for r in read.records], [b"", b"k", b"", b""])
        self.assertEqual([r.offset for r in read.records], list(range(first.first, second.first + 1)))
        self.assertEqual(read.end, second.first + 1)
        one = c.topic_read(name, 1, first.first + 1, max_records=1)
        self.assertEqual([r.value for r in one.records], [b"b"])
        tiny = c.topic_read(name, 1, first.first, max_bytes=1)
        self.assertEqual([r.value for r in tiny.records], [b"a"])
        self.assertEqual(c.topic_read(name, 1, LATEST).records, [])
        self.assertEqual(c.topic_read(name, 1, read.end, wait=0.05).records, [])
        since = c.topic_read(name, 1, AtTime(read.records[0].time))
        self.assertEqual(since.records[0].value, b"a")
        with self.assertRaises(ServerError) as raised:
            c.topic_read(name, 1, read.end + 1)
        self.assertEqual(raised.exception.code, ErrorCode.OFFSET_OUT_OF_RANGE)
        with self.assertRaises(ServerError) as raised:
            c.topic_read(name, 3)
        self.assertEqual(raised.exception.code, ErrorCode.UNKNOWN_PARTITION)
        by_key = c.topic_append(name, [b"x"], key=b"abc")
        self.assertEqual(by_key.partition, 0xBA7816BF % 3)
        c.topic_trim(name, 1, first.first + 2)
        self.assertEqual(c.topic_offsets(name, 1).start, first.first + 2)
        with self.assertRaises(ServerError) as raised:
            c.topic_read(name, 1, first.first)
        self.assertEqual(raised.exception.code, ErrorCode.OFFSET_OUT_OF_RANGE)
        self.assertEqual(raised.exception.detail, first.first + 2)
        c.topic_delete(name)
        with self.assertRaises(ServerError) as raised:
            c.topic_describe(name)
        self.assertEqual(raised.exception.code, ErrorCode.UNKNOWN_TOPIC)

    def test_a_reader_waits_for_a_record(self):
        c, name = self.client, self.topic
        c.topic_create(name, 1)
        topic = c.topic_describe(name)
        end = c.topic_offsets(name, 0).end
        # Asked on a connection of its own, answered when the record comes.
        with socket.create_connection(self.node.address.rsplit(":", 1), timeout=30) as sock:
            hello = m.encode_frame(m.Op.HELLO, 1, 0, m.hello(0, "", "live"))
            read = m.topic_read(topic.id, 0, end, 0, 0, 20_000)
            sock.sendall(hello + m.encode_frame(m.Op.TOPIC_READ, 2, 30_000, read))
            stream = sock.makefile("rb")
            self.assertEqual(self.frame(stream)[0].correlation, 1)
            c.topic_append(name, [b"late"], partition=0)
            header, body = self.frame(stream)
            self.assertEqual(header.correlation, 2)
            self.assertEqual([r.value for r in m.decode_answer(header, body).records], [b"late"])
            stream.close()

    @staticmethod
    def frame(stream):
        header = m.decode_header(stream.read(m.HEADER_BYTES))
        return header, stream.read(header.body_len)

    def test_sessions(self):
        raw, key = self.raw(), self.key(b"k")
        session = self.exchange(raw, m.Op.OPEN_SESSION, b"", m.Op.SESSION)
        self.assertNotEqual(session, 0)

        def put(sequence, value, condition=None):
            options = m.WriteOptions(Durability.QUORUM, session, sequence)
            body = m.put(options, condition, 0, key, value)
            return self.exchange(raw, m.Op.PUT, body, m.Op.RECEIPT)

        first = put(1, b"one")
        again = put(1, b"one")
        self.assertEqual((again.offset, again.term), (first.offset, first.term))
        self.assertEqual((first.duplicate, again.duplicate), (False, True))
        with self.assertRaises(ServerError) as raised:
            put(3, b"three")
        self.assertEqual((raised.exception.code, raised.exception.detail), (ErrorCode.SEQUENCE_GAP, 2))
        with self.assertRaises(ConditionFailed):
            put(2, b"two", condition=ABSENT)
        # The failed condition used sequence 2 up, and is answered the same again.
        with self.assertRaises(ConditionFailed) as raised:
            put(2, b"two", condition=ABSENT)
        self.assertEqual(raised.exception.current_version, first.offset)
        third = put(3, b"three")
        self.assertFalse(third.duplicate)
        self.assertEqual(self.client.get(key).value, b"three")

    @unittest.skipUnless(hasattr(os, "fork"), "no fork")
    def test_forked_processes_do_not_answer_for_each_other(self):
        c, key = self.client, self.key(b"k")
        c.put(key, b"parent")
        for value in (b"1", b"2"):
            self.assertTrue(fake.in_child(lambda: not c.put(key, value).duplicate))
            self.assertEqual(c.get(key).value, value)
        self.assertFalse(c.put(key, b"parent again").duplicate)
        self.assertEqual(c.get(key).value, b"parent again")

    def test_an_unopened_session_is_refused(self):
        options = m.WriteOptions(Durability.QUORUM, 0xDEAD_BEEF_DEAD_BEEF, 9)
        body = m.put(options, None, 0, self.key(b"k"), b"v")
        with self.assertRaises(ServerError) as raised:
            self.exchange(self.raw(), m.Op.PUT, body, m.Op.RECEIPT)
        refusals = (ErrorCode.SESSION_EXPIRED, ErrorCode.SEQUENCE_GAP)
        self.assertIn(raised.exception.code, refusals)

    def test_a_key_of_another_partition_is_refused(self):
        c, key = self.client, self.key(b"k")
        partitions = c.cluster_map().partitions
        if partitions == 1:
            self.skipTest("one partition holds all keys")
        wrong = (c.partition_of(key) + 1) % partitions
        body = m.multi_get(wrong, [key])
        with self.assertRaises(ServerError) as raised:
            self.exchange(self.raw(), m.Op.MULTI_GET, body, m.Op.VALUES)
        self.assertEqual(raised.exception.code, ErrorCode.WRONG_PARTITION)

    def test_pipelined_requests_are_all_answered(self):
        hello = m.encode_frame(m.Op.HELLO, 1, 0, m.hello(0, "", "live"))
        puts = [
            m.encode_frame(
                m.Op.PUT,
                i,
                0,
                m.put(m.WriteOptions(Durability.QUORUM), None, 0, self.key(b"%d" % i), b"v"),
            )
            for i in range(2, 502)
        ]
        with socket.create_connection(self.node.address.rsplit(":", 1), timeout=30) as sock:
            sock.sendall(hello + b"".join(puts))
            stream = sock.makefile("rb")
            seen = set()
            for _ in range(501):
                header, body = self.frame(stream)
                m.decode_answer(header, body)
                seen.add(header.correlation)
            self.assertEqual(seen, set(range(1, 502)))
            stream.close()

    def refusal(self, data):
        """The error that bytes are answered with, and whether the connection closes after it."""
        with socket.create_connection(self.node.address.rsplit(":", 1), timeout=30) as sock:
            sock.sendall(data)
            stream = sock.makefile("rb")
            while True:
                header, body = self.frame(stream)
                try:
                    m.decode_answer(header, body)
                except ServerError as error:
                    refused = error
                    break
            ping = m.encode_frame(m.Op.PING, 99, 0, b"")
            try:
                sock.sendall(ping)
                closed = stream.read(1) == b""
            except ConnectionError:
                closed = True
            stream.close()
            return refused.code, header.correlation, closed

    def test_bad_bytes_are_answered_as_documented(self):
        hello = m.encode_frame(m.Op.HELLO, 1, 0, m.hello(0, "", "live"))
        get = m.encode_frame(m.Op.GET, 7, 0, m.get(b"k"))
        flipped_header = bytearray(get)
        flipped_header[20] ^= 1
        flipped_body = get[:-1] + bytes([get[-1] ^ 1])
        head = struct.pack("<4sBBHQIII", b"IRNG", 1, m.Op.PUT, 0, 7, 1 << 30, 0, 0)
        oversized = head + struct.pack("<I", m.crc32c(head))
        trailing = m.encode_frame(m.Op.GET, 7, 0, m.get(b"k") + b"\0")
        unknown = struct.pack("<4sBBHQIII", b"IRNG", 1, 0x7E, 0, 7, 0, 0, 0)
        unknown += struct.pack("<I", m.crc32c(unknown))
        for name, data, code, correlation, closed in (
            ("http", b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", 1, 0, True),
            ("no hello", get, 7, 7, True),
            ("header", hello + bytes(flipped_header), 4, 0, True),
            ("oversized", hello + oversized, 5, 7, True),
            ("body", hello + flipped_body, 4, 7, False),
            ("trailing", hello + trailing, 1, 7, False),
            ("opcode", hello + unknown, 3, 7, False),
        ):
            with self.subTest(name):
                self.assertEqual(self.refusal(data), (ErrorCode(code), correlation, closed))

    def test_another_cluster_is_refused(self):
        with self.assertRaises(ServerError) as raised:
            Client(self.node.address, cluster="no-such-cluster")
        self.assertEqual(raised.exception.code, ErrorCode.WRONG_CLUSTER)

    def test_map_and_stats(self):
        c = self.client
        shards = c.cluster_map().shards
        self.assertEqual([s.shard for s in shards], [0])
        self.assertIsInstance(c.stats(), dict)


@unittest.skipUnless(BINARY, "IRONRING_BIN is not set: no node to test against")
class LiveRestart(unittest.TestCase):
    def test_what_was_acknowledged_survives_a_kill(self):
        node = Node()
        self.addCleanup(node.remove)
        node.start()
        with Client(node.address, deadline=START_SECONDS) as c:
            receipts = {b"%d" % i: c.put(b"%d" % i, b"v%d" % i) for i in range(100)}
            c.topic_create("t", 1)
            appended = c.topic_append("t", [b"a", b"b"], partition=0)
            node.kill()
            with self.assertRaises(ConnectionFailed):
                Client(node.address)
            node.start()
            # The client of before goes on, in the session of before.
            for key, receipt in receipts.items():
                value = c.get(key)
                self.assertEqual((value.value, value.version), (b"v" + key, receipt.version))
            self.assertGreater(c.put(b"0", b"new").version, receipts[b"0"].version)
            self.assertFalse(c.put(b"1", b"new").duplicate)
            records = c.topic_read("t", 0, appended.first).records
            self.assertEqual([r.value for r in records], [b"a", b"b"])
            self.assertEqual(c.topic_append("t", [b"c"], partition=0).first, appended.first + 2)


if __name__ == "__main__":
    unittest.main()
