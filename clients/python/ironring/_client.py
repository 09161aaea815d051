"""The client: routing, sessions and retries over connections."""

from __future__ import annotations

import json
import random
import time
from types import TracebackType
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Optional,
    Sequence,
    Set,
    Tuple,
    Type,
    TypeVar,
    Union,
)

from . import _messages as m
from ._call import Call, Sequences
from ._candidates import Candidates, share
from ._connection import Connection
from ._errors import (
    ConditionFailed,
    DeadlineExceeded,
    ErrorCode,
    InvalidRequest,
    IronringError,
    ProtocolError,
    ServerError,
    UnknownOutcome,
)

# What a client waits beyond the deadline it told the server: the answer that says so must come back.
_GRACE = 0.25
# So many nodes may be behind with their map.
_OLDER_MAPS_MAX = 8
# Entries of a scan asked for at once.
_PAGE_ENTRIES = 1000

_T = TypeVar("_T")
_Encode = Callable[[m.WriteOptions], bytes]


class Client:
    """A client of one cluster, for one thread.

    `addrs`: `host:port`, one or several, tried in this order; those that did not answer last time
    come after the others. `cluster`: refuse servers of any other. `deadline`: seconds a call takes
    at most, with all its retries.
    `attempt_timeout`: seconds a call that can be repeated waits for a node that says nothing before
    it asks again, perhaps another; twice as long after every third time. `durability`: level of
    writes that do not ask for another. `session`: number writes so that they can be repeated
    safely. `shard_aware`: send requests to the owning shard directly. `rng`: source of the jitter
    in pauses between retries.
    """

    def __init__(
        self,
        addrs: Union[str, Sequence[str]] = "127.0.0.1:7411",
        *,
        cluster: str = "",
        name: str = "ironring-python/0.1.0",
        connect_timeout: float = 5.0,
        deadline: float = 10.0,
        attempt_timeout: float = 0.5,
        durability: m.Durability = m.Durability.QUORUM,
        session: bool = True,
        shard_aware: bool = True,
        rng: Optional[random.Random] = None,
    ) -> None:
        self.addrs = [addrs] if isinstance(addrs, str) else list(addrs)
        if not self.addrs:
            raise InvalidRequest("a client needs an address")
        self.deadline = deadline
        self.attempt_timeout = attempt_timeout
        self.durability = durability
        self._connect_timeout = connect_timeout
        self._session = session
        self._shard_aware = shard_aware
        self._hello = m.hello(m.FEATURE_SHARD_AWARE if shard_aware else 0, cluster, name)
        self._rng = rng or random.Random()
        self._connections: Dict[str, Connection] = {}
        self._map: Optional[m.ClusterMap] = None
        self._map_is_old = False
        self._asks_for_map = 0
        self._candidates = Candidates()
        self._older_maps = 0
        self._unreachable: Set[str] = set()
        self._sequences = Sequences()
        self._topics: Dict[str, m.TopicInfo] = {}
        self._any_connection(time.monotonic() + deadline)

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections. The client opens new ones when it is used again."""
        for connection in self._connections.values():
            connection.close()
        self._connections.clear()

    # Node

    @property
    def servers(self) -> Dict[str, m.ServerInfo]:
        """What the servers connected to said of themselves, by address."""
        return {address: c.server for address, c in self._connections.items()}

    def ping(self) -> float:
        """Seconds until the answer to a ping came."""
        begin = time.monotonic()
        self._read(m.Op.PING, b"", m.Op.PONG)
        return time.monotonic() - begin

    def stats(self) -> Dict[str, Any]:
        """Counters of the node."""
        stats = json.loads(self._read(m.Op.STATS, b"", m.Op.STATS_TEXT))
        if not isinstance(stats, dict):
            raise ProtocolError("the statistics are no JSON object")
        return stats

    def cluster_map(self) -> m.ClusterMap:
        """Asks for the cluster map, and uses it from here on."""
        cluster_map: m.ClusterMap = self._read(m.Op.CLUSTER_MAP, b"", m.Op.MAP)
        self._use_map(cluster_map)
        return cluster_map

    def partition_of(self, key: bytes) -> int:
        """The partition a key belongs to: a batch holds keys of one."""
        return self._known_map(self._until()).partition_of(key)

    # Keys

    def put(
        self,
        key: bytes,
        value: bytes,
        *,
        condition: m.Condition = None,
        ttl: Optional[float] = None,
        durability: Optional[m.Durability] = None,
    ) -> m.Receipt:
        """Stores a value. `condition`: `ABSENT` or a version. `ttl`: seconds until it expires."""
        ttl_ms, until = m.ttl_ms(ttl), self._until()
        return self._write(
            m.Op.PUT,
            m.Op.RECEIPT,
            self._partition_for(key, until),
            durability,
            lambda options: m.put(options, condition, ttl_ms, key, value),
            until,
        )

    def put_if_absent(self, key: bytes, value: bytes, *, ttl: Optional[float] = None) -> m.Receipt:
        """Stores a value if the key does not exist; `ConditionFailed` if it does."""
        return self.put(key, value, condition=m.ABSENT, ttl=ttl)

    def cas(
        self, key: bytes, version: int, value: bytes, *, ttl: Optional[float] = None
    ) -> m.Receipt:
        """Stores a value if the key has exactly this version; `ConditionFailed` if not."""
        return self.put(key, value, condition=version, ttl=ttl)

    def get(self, key: bytes) -> Optional[m.Value]:
        """Reads a value; `None` when the key does not exist."""
        until = self._until()
        try:
            partition = self._partition_for(key, until)
            value: m.Value = self._read(m.Op.GET, m.get(key), m.Op.VALUE, partition, until)
            return value
        except ServerError as error:
            if error.code == ErrorCode.NOT_FOUND:
                return None
            raise

    def get_stale(self, key: bytes) -> m.Stale:
        """Reads a value at the first node that has a replica of it and answers, which may not have the
        newest: also where no majority is left. Each known node is asked once; while the cluster map
        is not known those of `addrs` first, the others only by a shard-aware client."""
        until = self._until()
        known = self._known_addresses()
        try:
            return self._get_stale_among(known, key, until)
        except IronringError:
            if self._map is not None or not self._shard_aware:
                raise
            # Others may have a replica. Any node has the map, also one that is cut off.
            self._ask_for_map(min(until, time.monotonic() + self.attempt_timeout))
            others = [address for address in self._known_addresses() if address not in known]
            if not others:
                raise
        return self._get_stale_among(others, key, until)

    def _get_stale_among(self, addresses: List[str], key: bytes, until: float) -> m.Stale:
        # Not always the same one, so that reads spread.
        first = self._rng.randrange(len(addresses))
        rotated = addresses[first:] + addresses[:first]
        last: Optional[IronringError] = None
        for address in sorted(rotated, key=self._candidates.has_failed):
            turn = min(until, time.monotonic() + self.attempt_timeout)
            try:
                connection = self._open(address, turn)
            except IronringError as error:
                last = error
                continue
            value: Optional[m.Value] = None
            try:
                value = connection.exchange(
                    m.Op.GET, m.get(key), m.Op.VALUE, turn + _GRACE, turn, m.STALE
                )
            except ServerError as error:
                if error.code != ErrorCode.NOT_FOUND:
                    last = error
                    continue
            except IronringError as error:
                self._give_up(connection, error)
                last = error
                continue
            except BaseException:
                self._drop(connection)
                raise
            age_ms = connection.age_ms
            return m.Stale(value, None if age_ms == 0xFFFFFFFF else age_ms)
        assert last is not None, "there is an address"
        raise last

    def delete(
        self,
        key: bytes,
        *,
        condition: m.Condition = None,
        durability: Optional[m.Durability] = None,
    ) -> m.Receipt:
        """Removes a key, whether or not it exists unless the condition asks."""
        until = self._until()
        return self._write(
            m.Op.DELETE,
            m.Op.RECEIPT,
            self._partition_for(key, until),
            durability,
            lambda options: m.delete(options, condition, key),
            until,
        )

    def batch(
        self,
        operations: Sequence[Union[m.Put, m.Delete]],
        *,
        durability: Optional[m.Durability] = None,
    ) -> m.Receipt:
        """Applies all operations or none. All keys must belong to one partition."""
        until = self._until()
        partitions = {self._known_map(until).partition_of(o.key) for o in operations}
        if len(partitions) != 1:
            raise InvalidRequest("a batch must hold operations, on keys of one partition")
        partition = partitions.pop()
        return self._write(
            m.Op.BATCH,
            m.Op.RECEIPT,
            partition,
            durability,
            lambda options: m.batch(options, partition, operations),
            until,
        )

    def multi_get(self, keys: Sequence[bytes]) -> List[Optional[m.Value]]:
        """Reads many keys, of any partitions, in the order given. Not a snapshot."""
        until = self._until()
        by_partition: Dict[int, List[int]] = {}
        for at, key in enumerate(keys):
            partition = self._known_map(until).partition_of(key)
            by_partition.setdefault(partition, []).append(at)
        found: List[Optional[m.Value]] = [None] * len(keys)
        for partition, wanted in by_partition.items():
            parts = [
                wanted[at : at + m.BATCH_OPS_MAX] for at in range(0, len(wanted), m.BATCH_OPS_MAX)
            ]
            while parts:
                part = parts.pop()
                body = m.multi_get(partition, [keys[at] for at in part])
                try:
                    values = self._read(m.Op.MULTI_GET, body, m.Op.VALUES, partition, until)
                except ServerError as error:
                    if error.code != ErrorCode.TOO_LARGE or len(part) == 1:
                        raise
                    # The answer does not fit a frame: ask for half as much.
                    half = len(part) // 2
                    parts.extend((part[:half], part[half:]))
                    continue
                if len(values) != len(part):
                    raise ProtocolError("a multi-get was answered with another number of values")
                for at, value in zip(part, values):
                    found[at] = value
        return found

    def scan(self, prefix: bytes = b"", *, values: bool = True) -> Iterator[m.Entry]:
        """Walks all keys that begin with `prefix`: partition after partition, in byte order within
        each. Not a snapshot. Reads page by page as the iterator is driven."""
        for partition in range(self._known_map(self._until()).partitions):
            after, more = b"", True
            while more:
                body = m.scan(partition, prefix, after, _PAGE_ENTRIES, values)
                entries, more = self._read(m.Op.SCAN, body, m.Op.PAGE, partition)
                yield from entries
                if more:
                    after = entries[-1].key

    # Topics

    def topic_create(
        self, name: str, partitions: int = 1, *, retention_ms: int = 0, retention_bytes: int = 0
    ) -> m.TopicInfo:
        """Makes a topic. Retention of 0 is without limit."""
        body = m.topic_create(name, partitions, retention_ms, retention_bytes)
        topic: m.TopicInfo = self._call(m.Op.TOPIC_CREATE, body, m.Op.TOPIC, freely=False)
        return topic

    def topic_delete(self, name: str) -> m.TopicInfo:
        """Drops a topic and its records."""
        self._topics.pop(name, None)
        body = m.topic_name(name)
        topic: m.TopicInfo = self._call(m.Op.TOPIC_DELETE, body, m.Op.TOPIC, freely=False)
        return topic

    def topic_describe(self, name: str) -> m.TopicInfo:
        """Describes a topic."""
        return self._describe(name, self._until())

    def _describe(self, name: str, until: float) -> m.TopicInfo:
        body = m.topic_name(name)
        topic: m.TopicInfo = self._read(m.Op.TOPIC_DESCRIBE, body, m.Op.TOPIC, until=until)
        self._topics[name] = topic
        return topic

    def topic_list(self) -> List[m.TopicInfo]:
        """Describes all topics."""
        topics: List[m.TopicInfo] = self._read(m.Op.TOPIC_LIST, b"", m.Op.TOPICS)
        return topics

    def topic_alter(
        self, name: str, *, retention_ms: int = 0, retention_bytes: int = 0
    ) -> m.TopicInfo:
        """Changes what a topic keeps."""
        body = m.topic_alter(name, retention_ms, retention_bytes)
        topic: m.TopicInfo = self._read(m.Op.TOPIC_ALTER, body, m.Op.TOPIC)
        return topic

    def topic_append(
        self,
        name: str,
        records: Sequence[Union[bytes, Tuple[bytes, bytes]]],
        *,
        partition: Optional[int] = None,
        key: Optional[bytes] = None,
        durability: Optional[m.Durability] = None,
    ) -> m.Appended:
        """Appends records, all or none, to a partition or to the one that `key` chooses. A record
        is a value, or a pair of key and value."""
        pairs = [r if isinstance(r, tuple) else (b"", r) for r in records]

        def append(topic: m.TopicInfo, until: float) -> m.Appended:
            index = partition
            if index is None:
                index = (m.token(key or b"") >> 32) % max(1, topic.partitions)
            answer: m.Appended = self._write(
                m.Op.TOPIC_APPEND,
                m.Op.APPENDED,
                self._partition_for_topic(topic, index, until),
                durability,
                lambda options: m.topic_append(options, topic.id, partition, key, pairs),
                until,
            )
            return answer

        return self._on_topic(name, append)

    def topic_read(
        self,
        name: str,
        partition: int,
        start: m.ReadFrom = m.EARLIEST,
        *,
        max_records: int = 0,
        max_bytes: int = 0,
        wait: float = 0.0,
    ) -> m.Records:
        """Reads records. Waits up to `wait` seconds, beyond the deadline, for the first. Go on with
        the last offset + 1."""

        def read(topic: m.TopicInfo, until: float) -> m.Records:
            body = m.topic_read(
                topic.id, partition, start, max_records, max_bytes, round(wait * 1000)
            )
            owner = self._partition_for_topic(topic, partition, until)
            records: m.Records = self._call(
                m.Op.TOPIC_READ, body, m.Op.RECORDS, owner, until, freely=True, wait=wait
            )
            return records

        return self._on_topic(name, read)

    def topic_offsets(self, name: str, partition: int, time_ms: int = 0) -> m.Offsets:
        """Start and end of a topic partition, and the first offset at or after a time (0: none)."""

        def ask(topic: m.TopicInfo, until: float) -> m.Offsets:
            body = m.topic_offsets(topic.id, partition, time_ms)
            owner = self._partition_for_topic(topic, partition, until)
            offsets: m.Offsets = self._read(m.Op.TOPIC_OFFSETS, body, m.Op.OFFSETS, owner, until)
            return offsets

        return self._on_topic(name, ask)

    def topic_trim(
        self,
        name: str,
        partition: int,
        before: int,
        *,
        durability: Optional[m.Durability] = None,
    ) -> m.Receipt:
        """Drops the records of a topic partition before an offset."""

        def trim(topic: m.TopicInfo, until: float) -> m.Receipt:
            receipt: m.Receipt = self._write(
                m.Op.TOPIC_TRIM,
                m.Op.RECEIPT,
                self._partition_for_topic(topic, partition, until),
                durability,
                lambda options: m.topic_trim(options, topic.id, partition, before),
                until,
            )
            return receipt

        return self._on_topic(name, trim)

    def _on_topic(self, name: str, act: Callable[[m.TopicInfo, float], _T]) -> _T:
        """Does something with a topic's id, which is remembered. One that the server does not know
        any more (the topic was dropped and made again) is looked up once more."""
        until = self._until()
        remembered = self._topics.get(name)
        if remembered is not None:
            try:
                return act(remembered, until)
            except ServerError as error:
                if error.code != ErrorCode.UNKNOWN_TOPIC:
                    raise
                self._topics.pop(name, None)
        return act(self._describe(name, until), until)

    # Routing

    def _known_map(self, until: float) -> m.ClusterMap:
        if self._map is None:
            self._use_map(self._read(m.Op.CLUSTER_MAP, b"", m.Op.MAP, until=until))
        assert self._map is not None
        return self._map

    def _use_map(self, cluster_map: m.ClusterMap) -> None:
        self._map = cluster_map
        self._map_is_old = False
        self._unreachable.clear()

    def _partition_for(self, key: bytes, until: float) -> Optional[int]:
        """The partition of a key when the configuration makes use of it."""
        if self._session or self._shard_aware:
            return self._known_map(until).partition_of(key)
        return None

    def _partition_for_topic(self, topic: m.TopicInfo, index: int, until: float) -> Optional[int]:
        if self._session or self._shard_aware:
            return self._known_map(until).partition_of_topic(topic.id, index)
        return None

    def _connection_for(self, partition: Optional[int], until: float) -> Connection:
        """A connection to the partition's shard if it can be had, else any."""
        if self._shard_aware and partition is not None:
            self._renew_map(until)
            owner = self._owner(partition)
            if owner is not None:
                # An address that swallows packets must leave time for another.
                now = time.monotonic()
                try:
                    return self._open(owner, now + max(0.0, until - now) / 2)
                except IronringError:
                    self._unreachable.add(owner)
        return self._any_connection(until)

    def _owner(self, partition: Optional[int]) -> Optional[str]:
        """The address of the shard that owns a partition, unless it could not be reached."""
        if self._map is None or partition is None:
            return None
        owner = self._map.address_of(partition)
        return None if owner in self._unreachable else owner

    def _known_addresses(self) -> List[str]:
        """Those of the configuration, then those of the map."""
        of_map = [shard.address for shard in self._map.shards] if self._map else []
        return list(dict.fromkeys(self.addrs + of_map))

    def _any_connection(self, until: float) -> Connection:
        known = self._candidates.order(self._known_addresses())
        last: Optional[IronringError] = None
        for at, address in enumerate(known):
            try:
                return self._open(address, self._share(until, len(known) - at))
            except IronringError as error:
                last = error
        assert last is not None, "there is an address"
        raise last

    def _share(self, until: float, remaining: int) -> float:
        """When to go on from the first of `remaining` addresses."""
        now = time.monotonic()
        return now + share(until - now, remaining, self.attempt_timeout)

    def _open(self, address: str, until: float) -> Connection:
        connection = self._connections.get(address)
        if connection is not None:
            if connection.is_alive():
                return connection
            self._drop(connection)
        now = time.monotonic()
        if until <= now:
            raise DeadlineExceeded("no answer in time")
        try:
            connection = Connection(address, self._hello, min(until, now + self._connect_timeout))
        except IronringError:
            self._candidates.failed(address)
            raise
        self._candidates.reached(address)
        self._connections[address] = connection
        return connection

    def _give_up(self, connection: Connection, error: IronringError) -> None:
        """Closes a connection: whatever is left on it belongs to nobody any more."""
        self._drop(connection)
        if isinstance(error, DeadlineExceeded):
            self._candidates.failed(connection.address)

    def _drop(self, connection: Connection) -> None:
        connection.close()
        if self._connections.get(connection.address) is connection:
            del self._connections[connection.address]

    def _renew_map(self, until: float) -> None:
        """Renews the map when something hinted that the one in use is old."""
        if self._map_is_old:
            self._map_is_old = False
            self._ask_for_map(until)

    def _ask_for_map(self, until: float) -> None:
        """Asks once for a new map. Without an answer the old one serves on."""
        # Another one each time: a node that is cut off from the others does not know that.
        known = self._known_addresses()
        turn = self._asks_for_map % len(known)
        self._asks_for_map += 1
        # Those that answered lately first: one that says nothing costs its share of the attempt.
        known = sorted(
            known[turn:] + known[:turn],
            key=lambda a: (self._candidates.has_failed(a), a not in self._connections),
        )
        for at, address in enumerate(known):
            share_end = self._share(until, len(known) - at)
            try:
                connection = self._open(address, share_end)
                try:
                    found = connection.exchange(
                        m.Op.CLUSTER_MAP, b"", m.Op.MAP, share_end + _GRACE, share_end
                    )
                except IronringError as error:
                    self._give_up(connection, error)
                    raise
            except IronringError:
                continue
            # A node may be behind; after several of those it is another cluster than before.
            if self._map and found.epoch < self._map.epoch and self._older_maps < _OLDER_MAPS_MAX:
                self._older_maps += 1
            else:
                self._older_maps = 0
                self._use_map(found)
            return

    # Calls

    def _until(self) -> float:
        """When a call that begins is over. Everything it takes shares that."""
        return time.monotonic() + self.deadline

    def _read(
        self,
        op: m.Op,
        body: bytes,
        expected: m.Op,
        partition: Optional[int] = None,
        until: Optional[float] = None,
    ) -> Any:
        return self._call(op, body, expected, partition, until, freely=True)

    def _call(
        self,
        op: m.Op,
        body: bytes,
        expected: m.Op,
        partition: Optional[int] = None,
        until: Optional[float] = None,
        *,
        freely: bool,
        wait: float = 0.0,
    ) -> Any:
        """Sends a request without a place in a session until it is answered, refused for good, or
        out of time."""
        until = (self._until() if until is None else until) + wait
        call = Call(freely, numbered=False)
        while True:
            try:
                turn = self._turn(call, until, wait)
                return self._attempt(op, body, expected, partition, turn, until)
            except _AttemptFailed as failure:
                again = call.failed(failure.error, failure.sent, self._rng)
            if time.monotonic() + again.pause >= until:
                raise call.out_of_time()
            time.sleep(again.pause)
            self._map_is_old |= again.new_map
            self._shard_aware |= again.route

    def _write(
        self,
        op: m.Op,
        expected: m.Op,
        partition: Optional[int],
        durability: Optional[m.Durability],
        encode: _Encode,
        until: float,
    ) -> Any:
        """Sends a write, numbered if the configuration says so."""
        level = self.durability if durability is None else durability
        if not self._session or partition is None:
            body = encode(m.WriteOptions(level))
            return self._call(op, body, expected, partition, until, freely=False)
        call = Call(freely=False, numbered=True)
        encode(m.WriteOptions(level))  # what breaks a rule opens no session
        session, sequence = self._place(partition, until)
        definite = True
        try:
            while True:
                body = encode(m.WriteOptions(level, session, sequence))
                try:
                    turn = self._turn(call, until)
                    answer = self._attempt(op, body, expected, partition, turn, until)
                    self._sequences.used(partition, session, sequence)
                    return answer
                except _AttemptFailed as failure:
                    again = call.failed(failure.error, failure.sent, self._rng)
                if time.monotonic() + again.pause >= until:
                    raise call.out_of_time()
                time.sleep(again.pause)
                self._map_is_old |= again.new_map
                self._shard_aware |= again.route
                if again.new_session:
                    self._sequences.renounce(partition, session)
                    session, sequence = self._place(partition, until)
        except ConditionFailed:
            self._sequences.used(partition, session, sequence)
            raise
        except UnknownOutcome:
            definite = False
            raise
        except IronringError:
            raise
        except BaseException:
            # Interrupted halfway: nobody knows the outcome.
            definite = False
            raise
        finally:
            if not definite:
                self._sequences.renounce(partition, session)

    def _place(self, partition: int, until: float) -> Tuple[int, int]:
        """Session and number of the next write to a partition."""
        place = self._sequences.next(partition)
        if place is None:
            opened = self._read(m.Op.OPEN_SESSION, b"", m.Op.SESSION, until=until)
            self._sequences.opened(opened)
            place = self._sequences.next(partition)
            assert place is not None
        return place

    def _turn(self, call: Call, until: float, wait: float = 0.0) -> float:
        """When the next attempt gives up."""
        patience = call.patience(self.attempt_timeout)
        return until if patience is None else min(until, time.monotonic() + patience + wait)

    def _attempt(
        self,
        op: m.Op,
        body: bytes,
        expected: m.Op,
        partition: Optional[int],
        turn: float,
        until: float,
    ) -> Any:
        try:
            connection = self._connection_for(partition, turn)
            if len(body) > connection.server.frame_bytes_max:
                raise InvalidRequest(f"{op.name} of {len(body)} bytes is over the server's limit")
        except IronringError as error:
            raise _AttemptFailed(error, sent=False) from error
        try:
            return connection.exchange(op, body, expected, turn + _GRACE, until)
        except ServerError as error:
            if error.code == ErrorCode.NOT_LEADER:
                owner = self._owner(partition)
                self._candidates.does_not_lead(connection.address, owner, self.addrs)
            raise _AttemptFailed(error, sent=True) from error
        except IronringError as error:
            self._give_up(connection, error)
            raise _AttemptFailed(error, sent=True) from error
        except BaseException:
            self._drop(connection)
            raise


class _AttemptFailed(Exception):
    def __init__(self, error: IronringError, sent: bool) -> None:
        super().__init__(str(error))
        self.error = error
        self.sent = sent
