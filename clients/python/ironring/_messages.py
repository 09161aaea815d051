"""Messages as types, and their bytes (docs/protocol.md)."""

from __future__ import annotations

import enum
import hashlib
import re
import struct
import uuid
from dataclasses import dataclass
from typing import Any, Iterable, List, NamedTuple, Optional, Sequence, Tuple, Union

from ._crc32c import crc32c
from ._errors import InvalidRequest, ProtocolError, server_error

VERSION = 1
HEADER_BYTES = 32
#: Flag of a read that any replica may answer.
STALE = 1
FRAME_BODY_BYTES_MAX = (16 << 20) + (64 << 10)
STORED_LIST_BYTES_MAX = (2 << 20) - 1024
KEY_BYTES_MAX = 1024
VALUE_BYTES_MAX = 16 << 20
BATCH_OPS_MAX = 4096
APPEND_RECORDS_MAX = 65_536
TOPIC_PARTITIONS_MAX = 1024
FEATURE_SHARD_AWARE = 1

_HEADER = struct.Struct("<4sBBHQIII")
_TOPIC_NAME = re.compile(r"[a-z0-9._-]{1,128}\Z")


class Op(enum.IntEnum):
    """Opcodes."""

    HELLO = 0x01
    PING = 0x02
    CLUSTER_MAP = 0x03
    OPEN_SESSION = 0x04
    STATS = 0x05
    PUT = 0x10
    GET = 0x11
    DELETE = 0x12
    MULTI_GET = 0x13
    BATCH = 0x14
    SCAN = 0x15
    TOPIC_CREATE = 0x20
    TOPIC_DELETE = 0x21
    TOPIC_DESCRIBE = 0x22
    TOPIC_LIST = 0x23
    TOPIC_ALTER = 0x24
    TOPIC_APPEND = 0x25
    TOPIC_READ = 0x26
    TOPIC_OFFSETS = 0x27
    TOPIC_TRIM = 0x28
    WELCOME = 0x81
    PONG = 0x82
    MAP = 0x83
    SESSION = 0x84
    STATS_TEXT = 0x85
    RECEIPT = 0x90
    VALUE = 0x91
    VALUES = 0x93
    PAGE = 0x95
    TOPIC = 0xA2
    TOPICS = 0xA3
    APPENDED = 0xA5
    RECORDS = 0xA6
    OFFSETS = 0xA7
    ERROR = 0xFF


class Durability(enum.IntEnum):
    """When a write is acknowledged, from weakest to strongest."""

    ASYNC = 0
    LOCAL = 1
    QUORUM = 2
    ALL = 3


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


#: Condition of a write: the key does not exist.
ABSENT = _Absent()

#: What must hold for a write: nothing, that the key is absent, or the version it has.
Condition = Union[None, _Absent, int]


@dataclass(frozen=True)
class AtTime:
    """Where to begin reading: the first record stored at or after this time (ms since 1970)."""

    ms: int


class _Place:
    def __init__(self, kind: int, name: str) -> None:
        self.kind = kind
        self._name = name

    def __repr__(self) -> str:
        return self._name


#: Where to begin reading: the oldest record kept.
EARLIEST = _Place(2, "EARLIEST")
#: Where to begin reading: the end, only records yet to come.
LATEST = _Place(3, "LATEST")

#: Where to begin reading: an offset, a time, `EARLIEST` or `LATEST`.
ReadFrom = Union[int, AtTime, _Place]


@dataclass(frozen=True)
class Put:
    """A put of a batch."""

    key: bytes
    value: bytes
    condition: Condition = None
    #: Seconds until it expires; `None`: never.
    ttl: Optional[float] = None


@dataclass(frozen=True)
class Delete:
    """A delete of a batch."""

    key: bytes
    condition: Condition = None


@dataclass(frozen=True)
class WriteOptions:
    """How a write is acknowledged, and its place in a session."""

    durability: Durability
    session: int = 0
    sequence: int = 0


@dataclass(frozen=True)
class Receipt:
    """What an acknowledged write got."""

    durability: Durability
    partition: int
    term: int
    #: For keys, the version.
    offset: int
    #: The request had been applied before; this is its first receipt again.
    duplicate: bool

    @property
    def version(self) -> int:
        """The version of the keys written."""
        return self.offset


@dataclass(frozen=True)
class Value:
    """A value that was read. Times are milliseconds since 1970; `expires` 0: never."""

    version: int
    time: int
    expires: int
    value: bytes


@dataclass(frozen=True)
class Stale:
    """What a replica knew to be committed. Everything that had been committed `age_ms` milliseconds
    before is in it; `None`: the replica does not know."""

    value: Optional[Value]
    age_ms: Optional[int]


@dataclass(frozen=True)
class Entry:
    """One entry of a scan."""

    key: bytes
    version: int
    #: `None` when values were not asked for.
    value: Optional[bytes]


@dataclass(frozen=True)
class Record:
    """One record of a topic."""

    offset: int
    time: int
    key: bytes
    value: bytes


@dataclass(frozen=True)
class Records:
    """What a read of a topic partition gave."""

    records: List[Record]
    #: Oldest offset kept.
    start: int
    #: One past the newest offset that may be read.
    end: int


@dataclass(frozen=True)
class Appended:
    """Where appended records went."""

    receipt: Receipt
    #: Index of the topic partition.
    partition: int
    #: Offset of the first record; the rest follow.
    first: int
    count: int


@dataclass(frozen=True)
class Offsets:
    """Start and end of a topic partition, and the first offset at or after a time."""

    start: int
    end: int
    at_time: int


@dataclass(frozen=True)
class TopicInfo:
    """A topic's definition. Retention: 0 is without limit."""

    id: int
    name: str
    partitions: int
    retention_ms: int
    retention_bytes: int
    created: int


@dataclass(frozen=True)
class ShardAddress:
    """One shard of the cluster map: it owns the partitions from `first` to before `end`."""

    shard: int
    address: str
    first: int
    end: int


@dataclass(frozen=True)
class ClusterMap:
    """Which shard owns which partitions."""

    epoch: int
    partitions: int
    shards: List[ShardAddress]

    def partition_of(self, key: bytes) -> int:
        """The partition a key belongs to."""
        return token(key) * self.partitions >> 64

    def partition_of_topic(self, topic: int, index: int) -> int:
        """The partition a topic partition lives in."""
        return self.partition_of(topic_key(topic, index))

    def address_of(self, partition: int) -> Optional[str]:
        """The address of the shard that owns a partition."""
        for shard in self.shards:
            if shard.first <= partition < shard.end:
                return shard.address
        return None


@dataclass(frozen=True)
class ServerInfo:
    """What a server said of itself."""

    version: int
    features: int
    storage: uuid.UUID
    cluster: str
    node: str
    server: str
    shard: int
    frame_bytes_max: int
    in_flight_max: int
    key_bytes_max: int
    value_bytes_max: int


def topic_key(topic: int, index: int) -> bytes:
    """What has the place on the ring that a topic partition has."""
    return b"t" + struct.pack(">II", topic, _u32(index, "partition"))


def token(key: bytes) -> int:
    """The position of a key on the ring."""
    return int.from_bytes(hashlib.sha256(key).digest()[:8], "big")


# Frames


class Header(NamedTuple):
    """A frame's header, checked."""

    version: int
    opcode: int
    status: int
    correlation: int
    body_len: int
    deadline_ms: int
    body_crc: int


def encode_frame(opcode: Op, correlation: int, deadline_ms: int, body: bytes, status: int = 0) -> bytes:
    """A whole frame."""
    if len(body) > FRAME_BODY_BYTES_MAX:
        raise InvalidRequest(f"frame body of {len(body)} is over the limit of {FRAME_BODY_BYTES_MAX}")
    head = _HEADER.pack(
        b"IRNG", VERSION, opcode, status, correlation, len(body), deadline_ms, crc32c(body)
    )
    return b"".join((head, struct.pack("<I", crc32c(head)), body))


def decode_header(data: bytes) -> Header:
    """The header at the front of 32 bytes."""
    magic, *fields = _HEADER.unpack(data[:28])
    if magic != b"IRNG":
        raise ProtocolError(f"the bytes {magic!r} do not begin an ironring frame")
    if struct.unpack("<I", data[28:32])[0] != crc32c(data[:28]):
        raise ProtocolError("the frame header does not match its checksum")
    header = Header(*fields)
    if header.body_len > FRAME_BODY_BYTES_MAX:
        raise ProtocolError(f"a frame body of {header.body_len} bytes is over the limit")
    return header


# Requests


def _limit(length: int, limit: int, what: str) -> None:
    if length > limit:
        raise InvalidRequest(f"{what} of {length} is over the limit of {limit}")


def _check_bytes(value: Any, what: str) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, (bytearray, memoryview)):
        return bytes(value)
    raise TypeError(f"{what} must be bytes, not {type(value).__name__}")


def _check_key(key: Any) -> bytes:
    key = _check_bytes(key, "key")
    if not key:
        raise InvalidRequest("key must not be empty")
    _limit(len(key), KEY_BYTES_MAX, "key")
    return key


def _check_value(value: Any) -> bytes:
    value = _check_bytes(value, "value")
    _limit(len(value), VALUE_BYTES_MAX, "value")
    return value


def _u64(number: int, what: str) -> int:
    if not 0 <= number < 1 << 64:
        raise InvalidRequest(f"{what} must fit 64 bits, not {number}")
    return number


def _u32(number: int, what: str) -> int:
    if not 0 <= number < 1 << 32:
        raise InvalidRequest(f"{what} must fit 32 bits, not {number}")
    return number


def _condition(condition: Condition) -> Tuple[int, int]:
    if condition is None:
        return 0, 0
    if isinstance(condition, _Absent):
        return 1, 0
    return 2, _u64(condition, "version")


def ttl_ms(ttl: Optional[float]) -> int:
    """A time to live as the wire has it. Less than a millisecond counts as one: 0 means never."""
    if ttl is None:
        return 0
    if ttl < 0:
        raise InvalidRequest("ttl must not be negative")
    return _u64(max(1, round(ttl * 1000)), "ttl")


def _topic_name(name: str) -> bytes:
    if not _TOPIC_NAME.match(name):
        raise InvalidRequest("topic name must be 1 to 128 of: a-z, 0-9, `.`, `_`, `-`")
    return bytes([len(name)]) + name.encode()


def _text(text: str, what: str) -> bytes:
    data = text.encode()
    _limit(len(data), 255, what)
    return data


def hello(features: int, cluster: str, client: str) -> bytes:
    """Body of Hello."""
    cluster_bytes, client_bytes = _text(cluster, "cluster name"), _text(client, "client name")
    head = struct.pack(
        "<BBBBQ", VERSION, VERSION, len(cluster_bytes), len(client_bytes), features
    )
    return head + cluster_bytes + client_bytes


def put(options: WriteOptions, condition: Condition, ttl: int, key: bytes, value: bytes) -> bytes:
    """Body of Put. `ttl` in milliseconds, 0: never."""
    key, value = _check_key(key), _check_value(value)
    kind, version = _condition(condition)
    head = struct.pack(
        "<BBHIQQQQ",
        options.durability,
        kind,
        len(key),
        len(value),
        options.session,
        options.sequence,
        version,
        ttl,
    )
    return b"".join((head, key, value))


def get(key: bytes) -> bytes:
    """Body of Get."""
    key = _check_key(key)
    return struct.pack("<H", len(key)) + key


def delete(options: WriteOptions, condition: Condition, key: bytes) -> bytes:
    """Body of Delete."""
    key = _check_key(key)
    kind, version = _condition(condition)
    head = struct.pack(
        "<BBHIQQQ",
        options.durability,
        kind,
        len(key),
        0,
        options.session,
        options.sequence,
        version,
    )
    return head + key


def multi_get(partition: int, keys: Sequence[bytes]) -> bytes:
    """Body of MultiGet."""
    _limit(len(keys), BATCH_OPS_MAX, "number of keys")
    parts = [struct.pack("<II", partition, len(keys))]
    parts.extend(get(key) for key in keys)
    return b"".join(parts)


def _operation(operation: Union[Put, Delete]) -> bytes:
    key = _check_key(operation.key)
    kind, version = _condition(operation.condition)
    if isinstance(operation, Put):
        value = _check_value(operation.value)
        ttl = ttl_ms(operation.ttl)
        head = struct.pack("<BBHIQQ", 1, kind, len(key), len(value), version, ttl)
        return b"".join((head, key, value))
    return struct.pack("<BBHIQQ", 2, kind, len(key), 0, version, 0) + key


def batch(options: WriteOptions, partition: int, operations: Iterable[Union[Put, Delete]]) -> bytes:
    """Body of Batch."""
    encoded = [_operation(operation) for operation in operations]
    _limit(len(encoded), BATCH_OPS_MAX, "number of batch operations")
    body = b"".join(encoded)
    _limit(len(body), STORED_LIST_BYTES_MAX, "bytes of batch operations")
    head = struct.pack(
        "<BxxxIQQI",
        options.durability,
        partition,
        options.session,
        options.sequence,
        len(encoded),
    )
    return head + body


def scan(partition: int, prefix: bytes, after: bytes, limit: int, values: bool) -> bytes:
    """Body of Scan."""
    prefix, after = _check_bytes(prefix, "prefix"), _check_bytes(after, "cursor")
    _limit(len(prefix), KEY_BYTES_MAX, "prefix")
    _limit(len(after), KEY_BYTES_MAX, "cursor")
    head = struct.pack(
        "<IIBxHH", partition, _u32(limit, "limit"), int(values), len(prefix), len(after)
    )
    return b"".join((head, prefix, after))


def topic_create(name: str, partitions: int, retention_ms: int, retention_bytes: int) -> bytes:
    """Body of TopicCreate."""
    if not 1 <= partitions <= TOPIC_PARTITIONS_MAX:
        raise InvalidRequest(f"number of partitions must be 1 to {TOPIC_PARTITIONS_MAX}")
    return struct.pack("<I", partitions) + topic_alter(name, retention_ms, retention_bytes)


def topic_name(name: str) -> bytes:
    """Body of TopicDelete and TopicDescribe."""
    return _topic_name(name)


def topic_alter(name: str, retention_ms: int, retention_bytes: int) -> bytes:
    """Body of TopicAlter."""
    age, size = _u64(retention_ms, "retention"), _u64(retention_bytes, "retention")
    return struct.pack("<QQ", age, size) + _topic_name(name)


def topic_append(
    options: WriteOptions,
    topic: int,
    partition: Optional[int],
    key: Optional[bytes],
    records: Sequence[Tuple[bytes, bytes]],
) -> bytes:
    """Body of TopicAppend: to `partition`, or to the one that `key` chooses. Records are pairs of
    key (empty: none) and value."""
    if (partition is None) == (key is None):
        raise InvalidRequest("an append names either a partition or a key")
    key_bytes = b"" if key is None else _check_bytes(key, "key")
    _limit(len(key_bytes), KEY_BYTES_MAX, "key")
    if not records:
        raise InvalidRequest("an append must hold at least one record")
    _limit(len(records), APPEND_RECORDS_MAX, "number of records")
    parts: List[bytes] = []
    for record_key, value in records:
        record_key, value = _check_bytes(record_key, "key"), _check_value(value)
        _limit(len(record_key), KEY_BYTES_MAX, "key")
        parts.extend((struct.pack("<IHH", len(value), len(record_key), 0), record_key, value))
    body = b"".join(parts)
    _limit(len(body), STORED_LIST_BYTES_MAX, "bytes of records")
    head = struct.pack(
        "<BBHIQQII",
        options.durability,
        0 if key is None else 1,
        len(key_bytes),
        topic,
        options.session,
        options.sequence,
        0 if partition is None else _u32(partition, "partition"),
        len(records),
    )
    return b"".join((head, key_bytes, body))


def topic_read(
    topic: int, partition: int, start: ReadFrom, max_records: int, max_bytes: int, wait_ms: int
) -> bytes:
    """Body of TopicRead."""
    if isinstance(start, AtTime):
        kind, place = 1, _u64(start.ms, "time")
    elif isinstance(start, _Place):
        kind, place = start.kind, 0
    else:
        kind, place = 0, _u64(start, "offset")
    return struct.pack(
        "<IIBxxxQIII",
        topic,
        _u32(partition, "partition"),
        kind,
        place,
        _u32(max_records, "number of records"),
        _u32(max_bytes, "number of bytes"),
        _u32(wait_ms, "wait"),
    )


def topic_offsets(topic: int, partition: int, time: int) -> bytes:
    """Body of TopicOffsets."""
    return struct.pack("<IIQ", topic, _u32(partition, "partition"), _u64(time, "time"))


def topic_trim(options: WriteOptions, topic: int, partition: int, before: int) -> bytes:
    """Body of TopicTrim."""
    return struct.pack(
        "<BxxxIQQIQ",
        options.durability,
        topic,
        options.session,
        options.sequence,
        _u32(partition, "partition"),
        _u64(before, "offset"),
    )


# Answers


class _Reader:
    """Takes fields off the front of a body."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def fields(self, layout: struct.Struct) -> Tuple[Any, ...]:
        end = self._at + layout.size
        if end > len(self._body):
            raise ProtocolError("an answer ends inside a field")
        fields = layout.unpack_from(self._body, self._at)
        self._at = end
        return fields

    def take(self, length: int) -> bytes:
        end = self._at + length
        if end > len(self._body):
            raise ProtocolError("an answer ends inside a field")
        taken = self._body[self._at : end]
        self._at = end
        return taken

    def text(self, length: int) -> str:
        try:
            return self.take(length).decode()
        except UnicodeDecodeError:
            raise ProtocolError("a text in an answer is not UTF-8") from None

    def finish(self) -> None:
        if self._at != len(self._body):
            raise ProtocolError(f"{len(self._body) - self._at} bytes follow the end of an answer")


_U32 = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_BYTE = struct.Struct("<B")
_WELCOME = struct.Struct("<BBBBHHQ16sIIII")
_MAP = struct.Struct("<QII")
_SHARD = struct.Struct("<HBBII")
_RECEIPT = struct.Struct("<BBHIQQ")
_VALUE = struct.Struct("<QQQI")
_PAGE = struct.Struct("<IB3s")
_ENTRY = struct.Struct("<HBBIQ")
_TOPIC = struct.Struct("<IIQQQB")
_APPENDED = struct.Struct("<IQI")
_RECORDS = struct.Struct("<QQI")
_RECORD = struct.Struct("<QQIHH")
_OFFSETS = struct.Struct("<QQQ")
_ERROR = struct.Struct("<QH")


def _reserved(*values: object) -> None:
    if any(value not in (0, b"\0\0\0") for value in values):
        raise ProtocolError("reserved bytes of an answer are not zero")


def _flag(value: int) -> bool:
    if value > 1:
        raise ProtocolError(f"a flag of an answer is {value}")
    return value == 1


def _welcome(reader: _Reader) -> ServerInfo:
    (version, cluster, node, server, shard, reserved, features, storage, *limits) = reader.fields(
        _WELCOME
    )
    _reserved(reserved)
    return ServerInfo(
        version,
        features,
        uuid.UUID(bytes=storage),
        reader.text(cluster),
        reader.text(node),
        reader.text(server),
        shard,
        *limits,
    )


def _map(reader: _Reader) -> ClusterMap:
    epoch, partitions, count = reader.fields(_MAP)
    shards = []
    for _ in range(count):
        shard, length, reserved, first, end = reader.fields(_SHARD)
        _reserved(reserved)
        shards.append(ShardAddress(shard, reader.text(length), first, end))
    expected = 0
    for owner in shards:
        if owner.first != expected or owner.end < expected:
            raise ProtocolError("the cluster map has a hole")
        expected = owner.end
    if expected != partitions or partitions & (partitions - 1) or not partitions:
        raise ProtocolError("the cluster map does not cover a power of two of partitions")
    return ClusterMap(epoch, partitions, shards)


def _receipt(reader: _Reader) -> Receipt:
    level, duplicate, reserved, partition, term, offset = reader.fields(_RECEIPT)
    _reserved(reserved)
    if level > Durability.ALL:
        raise ProtocolError(f"a receipt has durability {level}")
    return Receipt(Durability(level), partition, term, offset, _flag(duplicate))


def _value(reader: _Reader) -> Value:
    version, time, expires, length = reader.fields(_VALUE)
    return Value(version, time, expires, reader.take(length))


def _values(reader: _Reader) -> List[Optional[Value]]:
    (count,) = reader.fields(_U32)
    return [_value(reader) if _flag(reader.fields(_BYTE)[0]) else None for _ in range(count)]


def _page(reader: _Reader) -> Tuple[List[Entry], bool]:
    count, more, reserved = reader.fields(_PAGE)
    _reserved(reserved)
    entries = []
    for _ in range(count):
        key_len, has_value, zero, value_len, version = reader.fields(_ENTRY)
        _reserved(zero)
        key = reader.take(key_len)
        value = reader.take(value_len)
        entries.append(Entry(key, version, value if _flag(has_value) else None))
    if more and not entries:
        raise ProtocolError("a page is empty and says that there is more")
    return entries, _flag(more)


def _topic(reader: _Reader) -> TopicInfo:
    topic, partitions, age, size, created, length = reader.fields(_TOPIC)
    return TopicInfo(topic, reader.text(length), partitions, age, size, created)


def _topics(reader: _Reader) -> List[TopicInfo]:
    (count,) = reader.fields(_U32)
    return [_topic(reader) for _ in range(count)]


def _appended(reader: _Reader) -> Appended:
    receipt = _receipt(reader)
    return Appended(receipt, *reader.fields(_APPENDED))


def _records(reader: _Reader) -> Records:
    start, end, count = reader.fields(_RECORDS)
    records = []
    for _ in range(count):
        offset, time, value_len, key_len, reserved = reader.fields(_RECORD)
        _reserved(reserved)
        key = reader.take(key_len)
        records.append(Record(offset, time, key, reader.take(value_len)))
    return Records(records, start, end)


def _stats(reader: _Reader) -> str:
    (length,) = reader.fields(_U32)
    return reader.text(length)


_ANSWERS = {
    Op.WELCOME: _welcome,
    Op.PONG: lambda reader: None,
    Op.MAP: _map,
    Op.SESSION: lambda reader: reader.fields(_U64)[0],
    Op.STATS_TEXT: _stats,
    Op.RECEIPT: _receipt,
    Op.VALUE: _value,
    Op.VALUES: _values,
    Op.PAGE: _page,
    Op.TOPIC: _topic,
    Op.TOPICS: _topics,
    Op.APPENDED: _appended,
    Op.RECORDS: _records,
    Op.OFFSETS: lambda reader: Offsets(*reader.fields(_OFFSETS)),
}


def check_body(header: Header, body: bytes) -> None:
    """Raises when a body is not the one that the header was made for."""
    if crc32c(body) != header.body_crc:
        raise ProtocolError("an answer does not match its checksum")


def decode_answer(header: Header, body: bytes) -> Any:
    """What an answer says. Raises the `ServerError` that an `Error` frame carries."""
    check_body(header, body)
    reader = _Reader(body)
    if header.opcode == Op.ERROR:
        detail, length = reader.fields(_ERROR)
        message = reader.text(length)
        reader.finish()
        if header.status == 0:
            raise ProtocolError("an error says that nothing is wrong")
        raise server_error(header.status, detail, message)
    if header.status != 0 or header.opcode not in _ANSWERS:
        raise ProtocolError(f"no answer has opcode {header.opcode:#04x}, status {header.status}")
    answer = _ANSWERS[Op(header.opcode)](reader)
    reader.finish()
    return answer
