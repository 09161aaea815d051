"""The exact bytes of every message, shared with the Rust code."""

import json
import pathlib
import struct
import unittest
import uuid

from ironring import _messages as m
from ironring import ABSENT, LATEST, Delete, Durability, ErrorCode, Put, ServerError

_FILE = pathlib.Path(__file__).parents[3] / "net" / "tests" / "golden" / "frames.json"

CORRELATION = 0x0102030405060708
NOW = 1_700_000_000_000

PLAIN = m.WriteOptions(Durability.LOCAL)
WRITE = m.WriteOptions(Durability.QUORUM, 77, 5)
RECORDS = [(b"", b"first"), (b"user", b"second")]

REQUESTS = {
    "hello": (m.Op.HELLO, m.hello(1, "prod", "golden/1.0")),
    "ping": (m.Op.PING, b""),
    "cluster_map": (m.Op.CLUSTER_MAP, b""),
    "open_session": (m.Op.OPEN_SESSION, b""),
    "stats": (m.Op.STATS, b""),
    "put": (m.Op.PUT, m.put(PLAIN, None, 0, b"alpha", b"one")),
    "put_version": (m.Op.PUT, m.put(WRITE, 42, 60_000, b"alpha", b"")),
    "get": (m.Op.GET, m.get(b"alpha")),
    "delete": (m.Op.DELETE, m.delete(WRITE, None, b"alpha")),
    "multi_get": (m.Op.MULTI_GET, m.multi_get(0xBA, [b"alpha", b"beta"])),
    "batch": (
        m.Op.BATCH,
        m.batch(WRITE, 0xBA, [Put(b"alpha", b"one", ABSENT, ttl=1.0), Delete(b"beta", 9)]),
    ),
    "scan": (m.Op.SCAN, m.scan(2, b"al", b"alpha", 100, True)),
    "topic_create": (m.Op.TOPIC_CREATE, m.topic_create("orders", 4, 86_400_000, 1 << 30)),
    "topic_delete": (m.Op.TOPIC_DELETE, m.topic_name("orders")),
    "topic_describe": (m.Op.TOPIC_DESCRIBE, m.topic_name("orders")),
    "topic_list": (m.Op.TOPIC_LIST, b""),
    "topic_alter": (m.Op.TOPIC_ALTER, m.topic_alter("orders", 86_400_000, 1 << 30)),
    "topic_append": (m.Op.TOPIC_APPEND, m.topic_append(PLAIN, 3, 2, None, RECORDS)),
    "topic_append_key": (m.Op.TOPIC_APPEND, m.topic_append(WRITE, 3, None, b"user", RECORDS)),
    "topic_read": (m.Op.TOPIC_READ, m.topic_read(3, 2, 17, 100, 65_536, 250)),
    "topic_read_latest": (m.Op.TOPIC_READ, m.topic_read(3, 2, LATEST, 0, 0, 0)),
    "topic_offsets": (m.Op.TOPIC_OFFSETS, m.topic_offsets(3, 2, NOW)),
    "topic_trim": (m.Op.TOPIC_TRIM, m.topic_trim(WRITE, 3, 2, 17)),
}

_RECEIPT = m.Receipt(Durability.QUORUM, 0xBA, 3, 42, True)
_VALUE = m.Value(42, NOW, NOW + 60_000, b"one")
_TOPIC = m.TopicInfo(3, "orders", 4, 86_400_000, 1 << 30, NOW)

ANSWERS = {
    "welcome": m.ServerInfo(
        1,
        1,
        uuid.UUID("00112233-4455-6677-8899-aabbccddeeff"),
        "prod",
        "n1",
        "0.1.0",
        1,
        16_842_752,
        1024,
        1024,
        16 << 20,
    ),
    "pong": None,
    "map": m.ClusterMap(
        7,
        256,
        [
            m.ShardAddress(0, "127.0.0.1:7420", 0, 128),
            m.ShardAddress(1, "127.0.0.1:7421", 128, 256),
        ],
    ),
    "session": 77,
    "stats_text": '{"shards":2}',
    "receipt": _RECEIPT,
    "value": _VALUE,
    "values": [_VALUE, None],
    "page": ([m.Entry(b"alpha", 42, b"one"), m.Entry(b"beta", 42, None)], True),
    "topic": _TOPIC,
    "topics": [_TOPIC, m.TopicInfo(4, "a.b_c-9", 4, 86_400_000, 1 << 30, NOW)],
    "appended": m.Appended(_RECEIPT, 2, 17, 2),
    "records": m.Records(
        [m.Record(17, NOW, b"", b"first"), m.Record(18, NOW, b"user", b"second")], 5, 19
    ),
    "offsets": m.Offsets(5, 19, 17),
}


def load():
    return {e["name"]: bytes.fromhex(e["frame"]) for e in json.loads(_FILE.read_text())}


def split(frame):
    header = m.decode_header(frame[: m.HEADER_BYTES])
    return header, frame[m.HEADER_BYTES :]


class Golden(unittest.TestCase):
    def test_every_message_is_covered(self):
        self.assertEqual(set(load()), set(REQUESTS) | set(ANSWERS) | {"error"})

    def test_requests_have_these_bytes(self):
        golden = load()
        for name, (op, body) in REQUESTS.items():
            with self.subTest(name):
                frame = m.encode_frame(op, CORRELATION, 5000, body)
                self.assertEqual(frame.hex(), golden[name].hex())

    def test_answers_say_this(self):
        golden = load()
        for name, expected in ANSWERS.items():
            with self.subTest(name):
                header, body = split(golden[name])
                self.assertEqual(header.correlation, CORRELATION)
                self.assertEqual(m.decode_answer(header, body), expected)

    def test_errors_are_raised(self):
        header, body = split(load()["error"])
        with self.assertRaises(ServerError) as raised:
            m.decode_answer(header, body)
        self.assertEqual(raised.exception.code, ErrorCode.CONDITION_FAILED)
        self.assertEqual(raised.exception.current_version, 42)
        self.assertEqual(raised.exception.message, "the key has version 42")

    def test_answers_cut_anywhere_or_with_a_byte_more_are_refused(self):
        golden = load()
        for name in ANSWERS:
            header, body = split(golden[name])
            for changed in [body[:length] for length in range(len(body))] + [body + b"\0"]:
                with self.subTest(name, length=len(changed)):
                    resealed = header._replace(body_crc=m.crc32c(changed))
                    with self.assertRaises(m.ProtocolError):
                        m.decode_answer(resealed, changed)

    def test_each_flipped_bit_of_a_frame_is_detected(self):
        frame = load()["value"]
        for bit in range(len(frame) * 8):
            bad = bytearray(frame)
            bad[bit // 8] ^= 1 << bit % 8
            with self.assertRaises(m.ProtocolError):
                header, body = split(bytes(bad))
                m.decode_answer(header, body)

    def test_an_error_of_the_future_is_not_retriable(self):
        header, body = split(load()["error"])
        with self.assertRaises(ServerError) as raised:
            m.decode_answer(header._replace(status=999), body)
        self.assertEqual((raised.exception.code, raised.exception.retriable), (999, False))


class Document(unittest.TestCase):
    def test_error_codes_are_those_of_the_document(self):
        document = (pathlib.Path(__file__).parents[3] / "docs" / "protocol.md").read_text()
        rows = [line.split("|") for line in document.splitlines() if line.startswith("| ")]
        described = {
            int(row[1]): (row[2].strip(), row[3].strip() == "yes")
            for row in rows
            if len(row) == 7 and row[1].strip().isdigit() and row[3].strip() in ("yes", "no")
        }
        ours = {code.value: (code.name.lower(), code.retriable) for code in ErrorCode}
        self.assertEqual(ours, described)

    def test_tokens_are_those_of_the_document(self):
        self.assertEqual(m.token(b"abc"), 0xBA7816BF8F01CFEA)
        for partitions, expected in ((256, 0xBA), (1, 0), (1 << 31, 0xBA7816BF >> 1)):
            self.assertEqual(m.ClusterMap(1, partitions, []).partition_of(b"abc"), expected)
        by_hand = m.token(b"t" + struct.pack(">II", 3, 2)) >> 56
        self.assertEqual(m.ClusterMap(1, 256, []).partition_of_topic(3, 2), by_hand)


class Limits(unittest.TestCase):
    def test_what_breaks_a_rule_is_not_encoded(self):
        big = bytes(m.STORED_LIST_BYTES_MAX)
        for encode in (
            lambda: m.get(b""),
            lambda: m.get(bytes(1025)),
            lambda: m.put(PLAIN, None, 0, b"k", bytes(m.VALUE_BYTES_MAX + 1)),
            lambda: m.put(PLAIN, -1, 0, b"k", b""),
            lambda: m.multi_get(0, [b"k"] * 4097),
            lambda: m.batch(PLAIN, 0, [Put(b"k", big)]),
            lambda: m.topic_name("Upper"),
            lambda: m.topic_name("line\n"),
            lambda: m.topic_name("n" * 129),
            lambda: m.topic_create("t", 0, 0, 0),
            lambda: m.topic_create("t", 1025, 0, 0),
            lambda: m.topic_append(PLAIN, 1, 0, b"k", [(b"", b"")]),
            lambda: m.topic_append(PLAIN, 1, None, None, [(b"", b"")]),
            lambda: m.topic_append(PLAIN, 1, 0, None, []),
            lambda: m.topic_append(PLAIN, 1, 0, None, [(b"", big)]),
            lambda: m.ttl_ms(-1.0),
            lambda: m.hello(0, "c" * 256, ""),
        ):
            with self.assertRaises(m.InvalidRequest):
                encode()
        with self.assertRaises(TypeError):
            m.get("text")

    def test_a_short_ttl_is_not_for_ever(self):
        self.assertEqual([m.ttl_ms(t) for t in (None, 0.0, 0.0001, 1.5)], [0, 1, 1, 1500])


if __name__ == "__main__":
    unittest.main()
