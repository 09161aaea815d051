"""A server in a thread: keys, topics and sessions in memory, and faults on demand."""

import dataclasses
import os
import socket
import socketserver
import struct
import threading
import uuid

from ironring import _messages as m
from ironring import ErrorCode

PARTITIONS = 16
PAGE_ENTRIES = 5

# Faults: the next request of a kind is refused with a code, meets one of these, or is applied and
# what a function makes of the answer's bytes is sent.
CLOSE_BEFORE = "closed before it is applied"
CLOSE_AFTER = "applied, then closed"
SILENCE = "applied and not answered"


def with_header(frame, at, data):
    head = frame[:at] + data + frame[at + len(data) : 28]
    return head + struct.pack("<I", m.crc32c(head)) + frame[m.HEADER_BYTES :]


def other_version(frame):
    return with_header(frame, 4, b"\2")


def other_code(frame):
    return with_header(frame, 6, struct.pack("<H", 999))


def bad_body(frame):
    return frame[:-1] + bytes([frame[-1] ^ 1])


class Refused(Exception):
    def __init__(self, code, detail=0):
        super().__init__(code)
        self.code, self.detail = code, detail


class Server:
    def __init__(self):
        self.lock = threading.Lock()
        self.keys, self.topics, self.answers = {}, {}, {}
        self.applied = self.sessions = self.topics_made = 0
        self.faults, self.seen, self.sequences = [], [], []
        # Of the shards in the map, which lead the same number of partitions each.
        self.map_addresses, self.map_epoch = None, 1
        # Op to the code it is refused with always.
        self.refused = {}
        fake = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                fake.serve(self.request)

        class Listener(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self.listener = Listener(("127.0.0.1", 0), Handler)
        self.address = "127.0.0.1:%d" % self.listener.server_address[1]
        self.thread = threading.Thread(target=self.listener.serve_forever, args=(0.01,))
        self.thread.start()

    def stop(self):
        self.listener.shutdown()
        self.thread.join()
        self.listener.server_close()

    def on(self, op, fault, detail=0):
        self.faults.append((op, fault, detail))

    def count(self, op):
        return self.seen.count(op)

    def serve(self, sock):
        def read(length):
            data = b""
            while len(data) < length:
                more = sock.recv(length - len(data))
                if not more:
                    raise ConnectionError
                data += more
            return data

        try:
            while True:
                header = m.decode_header(read(m.HEADER_BYTES))
                body = read(header.body_len)
                assert m.crc32c(body) == header.body_crc
                with self.lock:
                    answer = self.answer(m.Op(header.opcode), body)
                if answer is CLOSE_BEFORE:
                    return
                if answer is not SILENCE:
                    op, body, status, *spoil = answer
                    frame = m.encode_frame(op, header.correlation, 0, body, status)
                    sock.sendall(spoil[0](frame) if spoil else frame)
        except OSError:
            return
        finally:
            sock.close()

    def answer(self, op, body):
        self.seen.append(op)
        fault = next((f for f in self.faults if f[0] == op), None)
        if fault is not None:
            self.faults.remove(fault)
            if fault[1] is CLOSE_BEFORE:
                return CLOSE_BEFORE
            if isinstance(fault[1], ErrorCode):
                if op in (m.Op.PUT, m.Op.DELETE):
                    self.sequences.append(struct.unpack_from("<Q", body, 16)[0])
                return self.error(fault[1], fault[2])
        if op in self.refused:
            return self.error(self.refused[op], 0)
        try:
            said = self.handle(op, body)
        except Refused as refused:
            said = self.error(refused.code, refused.detail)
        if fault is not None and callable(fault[1]):
            return (*said, fault[1])
        if fault is not None:
            return SILENCE if fault[1] is SILENCE else CLOSE_BEFORE
        return said

    @staticmethod
    def error(code, detail):
        message = b"as the test wants"
        return m.Op.ERROR, struct.pack("<QH", detail, len(message)) + message, int(code)

    def handle(self, op, body):
        if op == m.Op.HELLO:
            return m.Op.WELCOME, self.welcome(body), 0
        if op == m.Op.PING:
            return m.Op.PONG, b"", 0
        if op == m.Op.STATS:
            return m.Op.STATS_TEXT, struct.pack("<I", 2) + b"{}", 0
        if op == m.Op.OPEN_SESSION:
            self.sessions += 1
            return m.Op.SESSION, struct.pack("<Q", self.sessions), 0
        if op == m.Op.CLUSTER_MAP:
            addresses = self.map_addresses or [self.address]
            each, shards = PARTITIONS // len(addresses), b""
            for i, address in enumerate(addresses):
                shard = struct.pack("<HBBII", i, len(address), 0, i * each, (i + 1) * each)
                shards += shard + address.encode()
            head = struct.pack("<QII", self.map_epoch, PARTITIONS, len(addresses))
            return m.Op.MAP, head + shards, 0
        if op == m.Op.GET:
            key = body[2:]
            if key not in self.keys:
                raise Refused(ErrorCode.NOT_FOUND)
            return m.Op.VALUE, self.value(key), 0
        if op == m.Op.MULTI_GET:
            count, at, parts = struct.unpack_from("<I", body, 4)[0], 8, []
            for _ in range(count):
                (length,) = struct.unpack_from("<H", body, at)
                key = body[at + 2 : at + 2 + length]
                at += 2 + length
                parts.append(b"\1" + self.value(key) if key in self.keys else b"\0")
            return m.Op.VALUES, struct.pack("<I", count) + b"".join(parts), 0
        if op == m.Op.SCAN:
            return m.Op.PAGE, self.page(body), 0
        if op in (m.Op.PUT, m.Op.DELETE, m.Op.BATCH, m.Op.TOPIC_APPEND, m.Op.TOPIC_TRIM):
            return self.write(op, body)
        return self.topic_request(op, body)

    @staticmethod
    def welcome(body):
        cluster_len = body[2]
        if body[12 : 12 + cluster_len] not in (b"", b"test"):
            raise Refused(ErrorCode.WRONG_CLUSTER)
        storage = uuid.UUID(int=1).bytes
        head = struct.pack("<BBBBHHQ16s", 1, 4, 4, 1, 0, 0, 0, storage)
        return head + struct.pack("<IIII", 1 << 24, 1024, 1024, 1 << 24) + b"test" + b"fake" + b"0"

    def value(self, key):
        version, value = self.keys[key]
        return struct.pack("<QQQI", version, 1, 0, len(value)) + value

    @staticmethod
    def partition_of(key):
        return m.ClusterMap(1, PARTITIONS, []).partition_of(key)

    def page(self, body):
        partition, _, values, prefix_len, after_len = struct.unpack_from("<IIBxHH", body)
        prefix, after = body[14 : 14 + prefix_len], body[14 + prefix_len :]
        assert len(after) == after_len
        keys = [
            key
            for key in sorted(self.keys)
            if key.startswith(prefix) and key > after and self.partition_of(key) == partition
        ]
        entries = b""
        for key in keys[:PAGE_ENTRIES]:
            version, value = self.keys[key]
            value = value if values else b""
            entries += struct.pack("<HBBIQ", len(key), values, 0, len(value), version) + key + value
        more = len(keys) > PAGE_ENTRIES
        return struct.pack("<IB3s", min(len(keys), PAGE_ENTRIES), more, b"\0\0\0") + entries

    def by_id(self, topic):
        for info, records in self.topics.values():
            if info.id == topic:
                return info, records
        raise Refused(ErrorCode.UNKNOWN_TOPIC)

    @staticmethod
    def topic_bytes(info):
        name = info.name.encode()
        fields = (info.id, info.partitions, info.retention_ms, info.retention_bytes, info.created)
        return struct.pack("<IIQQQB", *fields, len(name)) + name

    def topic_request(self, op, body):
        if op == m.Op.TOPIC_LIST:
            infos = [self.topic_bytes(info) for info, _ in self.topics.values()]
            return m.Op.TOPICS, struct.pack("<I", len(infos)) + b"".join(infos), 0
        if op == m.Op.TOPIC_CREATE:
            partitions, age, size, length = struct.unpack_from("<IQQB", body)
            name = body[21 : 21 + length].decode()
            if name in self.topics:
                raise Refused(ErrorCode.TOPIC_EXISTS)
            self.topics_made += 1
            info = m.TopicInfo(self.topics_made, name, partitions, age, size, 1)
            self.topics[name] = (info, [[0, []] for _ in range(partitions)])
            return m.Op.TOPIC, self.topic_bytes(info), 0
        if op in (m.Op.TOPIC_DESCRIBE, m.Op.TOPIC_DELETE):
            name = body[1:].decode()
            if name not in self.topics:
                raise Refused(ErrorCode.UNKNOWN_TOPIC)
            info = self.topics[name][0]
            if op == m.Op.TOPIC_DELETE:
                del self.topics[name]
            return m.Op.TOPIC, self.topic_bytes(info), 0
        if op == m.Op.TOPIC_ALTER:
            age, size, name = *struct.unpack_from("<QQ", body), body[17:].decode()
            if name not in self.topics:
                raise Refused(ErrorCode.UNKNOWN_TOPIC)
            info, records = self.topics[name]
            info = dataclasses.replace(info, retention_ms=age, retention_bytes=size)
            self.topics[name] = (info, records)
            return m.Op.TOPIC, self.topic_bytes(info), 0
        topic, partition = struct.unpack_from("<II", body)
        start, records = self.by_id(topic)[1][partition]
        end = start + len(records)
        if op == m.Op.TOPIC_OFFSETS:
            return m.Op.OFFSETS, struct.pack("<QQQ", start, end, end), 0
        assert op == m.Op.TOPIC_READ, op
        parts = [struct.pack("<QQI", start, end, len(records))]
        for at, (key, value) in enumerate(records):
            head = struct.pack("<QQIHH", start + at, 1, len(value), len(key), 0)
            parts.append(head + key + value)
        return m.Op.RECORDS, b"".join(parts), 0

    def write(self, op, body):
        level, kind, key_len = struct.unpack_from("<BBH", body)
        session, sequence = struct.unpack_from("<QQ", body, 8)
        topic = index = None
        if op == m.Op.BATCH:
            (partition,) = struct.unpack_from("<I", body, 4)
        elif op in (m.Op.PUT, m.Op.DELETE):
            key_at = 40 if op == m.Op.PUT else 32
            partition = self.partition_of(body[key_at : key_at + key_len])
        else:
            topic, index = struct.unpack_from("<I", body, 4)[0], struct.unpack_from("<I", body, 24)[0]
            info, _ = self.by_id(topic)
            if op == m.Op.TOPIC_APPEND and kind == 1:
                index = (m.token(body[32 : 32 + key_len]) >> 32) % info.partitions
            partition = m.ClusterMap(1, PARTITIONS, []).partition_of_topic(topic, index)
        answers = self.answers.setdefault((session, partition), [])
        if session:
            self.sequences.append(sequence)
            if sequence > len(answers) + 1:
                raise Refused(ErrorCode.SEQUENCE_GAP, len(answers) + 1)
            if sequence <= len(answers):
                return self.receipt(*answers[sequence - 1], duplicate=1)
        failed = self.failed_condition(op, body)
        if failed is not None:
            answer = (None, failed, b"")
        else:
            self.applied += 1
            extra = self.apply(op, body, index)
            answer = (struct.pack("<IQQ", partition, 1, self.applied), level, extra)
        if session:
            answers.append(answer)
        return self.receipt(*answer, duplicate=0)

    def receipt(self, receipt, level, extra, duplicate):
        if receipt is None:
            return self.error(ErrorCode.CONDITION_FAILED, level)
        op = m.Op.APPENDED if extra else m.Op.RECEIPT
        return op, struct.pack("<BBH", level, duplicate, 0) + receipt + extra, 0

    @staticmethod
    def operations(op, body):
        """(put?, condition, version, key, value)"""
        if op in (m.Op.PUT, m.Op.DELETE):
            _, kind, key_len = struct.unpack_from("<BBH", body)
            (version,) = struct.unpack_from("<Q", body, 24)
            at = 40 if op == m.Op.PUT else 32
            return [(op == m.Op.PUT, kind, version, body[at : at + key_len], body[at + key_len :])]
        found, at = [], 28
        for _ in range(struct.unpack_from("<I", body, 24)[0] if op == m.Op.BATCH else 0):
            what, kind, key_len, value_len, version, _ = struct.unpack_from("<BBHIQQ", body, at)
            key = body[at + 24 : at + 24 + key_len]
            value = body[at + 24 + key_len : at + 24 + key_len + value_len]
            at += 24 + key_len + value_len
            found.append((what == 1, kind, version, key, value))
        return found

    def failed_condition(self, op, body):
        for _, kind, version, key, _ in self.operations(op, body):
            current = self.keys[key][0] if key in self.keys else 0
            if (kind == 1 and current) or (kind == 2 and (version != current or not current)):
                return current
        return None

    def apply(self, op, body, index):
        for is_put, _, _, key, value in self.operations(op, body):
            if is_put:
                self.keys[key] = (self.applied, value)
            else:
                self.keys.pop(key, None)
        if op == m.Op.TOPIC_TRIM:
            topic, (before,) = struct.unpack_from("<I", body, 4)[0], struct.unpack_from("<Q", body, 28)
            kept = self.by_id(topic)[1][index]
            dropped = max(0, min(before - kept[0], len(kept[1])))
            kept[0], kept[1] = kept[0] + dropped, kept[1][dropped:]
        if op != m.Op.TOPIC_APPEND:
            return b""
        topic, key_len = struct.unpack_from("<I", body, 4)[0], struct.unpack_from("<H", body, 2)[0]
        (count,) = struct.unpack_from("<I", body, 28)
        kept, at = self.by_id(topic)[1][index], 32 + key_len
        first = kept[0] + len(kept[1])
        for _ in range(count):
            value_len, key_len, _ = struct.unpack_from("<IHH", body, at)
            key = body[at + 8 : at + 8 + key_len]
            value = body[at + 8 + key_len : at + 8 + key_len + value_len]
            kept[1].append((key, value))
            at += 8 + key_len + value_len
        return struct.pack("<IQI", index, first, count)


def in_child(act):
    """Whether `act` gives true in a child process."""
    child = os.fork()
    if child == 0:
        done = False
        try:
            done = act()
        finally:
            os._exit(0 if done else 1)
    return os.waitpid(child, 0)[1] == 0


def free_address():
    """An address where nothing listens."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return "127.0.0.1:%d" % sock.getsockname()[1]
