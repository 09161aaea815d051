"""The client: routing, sessions and retries over connections."""

from __future__ import annotations

import functools
import json
import os
import random
import threading
import time
from contextlib import contextmanager
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
    cast,
)

from . import _messages as m
from ._call import ANOTHER_MAY_SERVE, Call, Repeat, Sequences
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
_F = TypeVar("_F", bound=Callable[..., Any])
_Encode = Callable[[m.WriteOptions], bytes]
# Where a request goes: to a partition, or to that of a key.
_Where = Union[None, int, bytes]


class _Use:
    """The use of a client in one process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        #: The thread that has it.
        self.thread: Optional[int] = None


def _alone(method: _F) -> _F:
    """A call, beside which the client does no other."""

    @functools.wraps(method)
    def call(self: "Client", *args: Any, **options: Any) -> Any:
        with self._used_alone(self.deadline):
            return method(self, *args, **options)

    return cast(_F, call)


class Client:
    """A client of one cluster. It does one call at a time: threads wait for each other, so each
    should have its own. After a fork the child goes on with connections and a session of its own.

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
        self._rng_is_own = rng is None
        # One for each process that used the client: when a process is forked, one of its threads may
        # be in a call that the child will never see the end of.
        self._uses: Dict[int, _Use] = {}
        self._pid = os.getpid()
        self._begun = time.monotonic()
        self._connections: Dict[str, Connection] = {}
        self._map: Optional[m.ClusterMap] = None
        self._map_is_old = False
        self._asks_for_map = 0
        self._candidates = Candidates()
        self._older_maps = 0
        self._unreachable: Set[str] = set()
        self._sequences = Sequences()
        self._topics: Dict[str, m.TopicInfo] = {}
        self._any_connection(self._until())

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
        """Closes the connections, after the call that another thread may be in. The client opens
        new ones when it is used again."""
        use = self._uses.get(os.getpid())
        if use is not None and use.thread == threading.get_ident():
            # A signal handler. To the call it interrupted this is a lost connection like any other.
            self._close_all()
            return
        with self._used_alone(threading.TIMEOUT_MAX):
            self._close_all()

    def _close_all(self) -> None:
        for connection in list(self._connections.values()):
            connection.close()
        self._connections.clear()

    @contextmanager
    def _used_alone(self, patience: float) -> Iterator[None]:
        """What is done in this is done by one thread, with nothing that another process uses."""
        begun, pid, thread = time.monotonic(), os.getpid(), threading.get_ident()
        use = self._uses.get(pid) or self._uses.setdefault(pid, _Use())
        if use.thread == thread:
            # A signal handler, or a finalizer. Two writes of one number would be taken for one.
            raise InvalidRequest("the client is used by what interrupted a call of it")
        if not use.lock.acquire(timeout=max(0.0, min(patience, threading.TIMEOUT_MAX))):
            raise DeadlineExceeded("another thread used the client all the time")
        try:
            use.thread = thread
            if self._pid != pid:
                self._leave_to_parent()
                self._pid = pid
            self._begun = begun
            yield
        finally:
            use.thread = None
            use.lock.release()

    def _leave_to_parent(self) -> None:
        """Gives up what the parent process goes on with."""
        # Closed in this process only: the parent's descriptors keep the connections open.
        self._close_all()
        # Its next write to a partition and one from here would have the same number, and the server
        # would answer the second one as it did the first.
        self._sequences = Sequences()
        if self._rng_is_own:
            # Processes forked together would pause for the same times.
            self._rng = random.Random()

    # Node

    @property
    def servers(self) -> Dict[str, m.ServerInfo]:
        """What the servers connected to said of themselves, by address."""
        with self._used_alone(self.deadline):
            return {address: c.server for address, c in self._connections.items()}

    @_alone
    def ping(self) -> float:
        """Seconds until the answer to a ping came."""
        begin = time.monotonic()
        self._read(m.Op.PING, b"", m.Op.PONG)
        return time.monotonic() - begin

    @_alone
    def stats(self) -> Dict[str, Any]:
        """Counters of the node."""
        stats = json.loads(self._read(m.Op.STATS, b"", m.Op.STATS_TEXT))
        if not isinstance(stats, dict):
            raise ProtocolError("the statistics are no JSON object")
        return stats

    @_alone
    def cluster_map(self) -> m.ClusterMap:
        """Asks for the cluster map, and uses it from here on."""
        cluster_map: m.ClusterMap = self._read(m.Op.CLUSTER_MAP, b"", m.Op.MAP)
        self._use_map(cluster_map)
        return cluster_map

    @_alone
    def partition_of(self, key: bytes) -> int:
        """The partition a key belongs to: a batch holds keys of one."""
        return self._known_map(self._until()).partition_of(key)

    # Keys

    @_alone
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
            key,
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

    @_alone
    def get(self, key: bytes) -> Optional[m.Value]:
        """Reads a value; `None` when the key does not exist."""
        until = self._until()
        try:
            value: m.Value = self._read(m.Op.GET, m.get(key), m.Op.VALUE, key, until)
            return value
        except ServerError as error:
            if error.code == ErrorCode.NOT_FOUND:
                return None
            raise

    @_alone
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

    @_alone
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
            key,
            durability,
            lambda options: m.delete(options, condition, key),
            until,
        )

    @_alone
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

    @_alone
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
        for partition in range(self._partitions()):
            after, more = b"", True
            while more:
                entries, more = self._scan_page(partition, prefix, after, values)
                yield from entries
                if more:
                    after = entries[-1].key

    @_alone
    def _partitions(self) -> int:
        return self._known_map(self._until()).partitions

    @_alone
    def _scan_page(
        self, partition: int, prefix: bytes, after: bytes, values: bool
    ) -> Tuple[List[m.Entry], bool]:
        body = m.scan(partition, prefix, after, _PAGE_ENTRIES, values)
        page: Tuple[List[m.Entry], bool] = self._read(m.Op.SCAN, body, m.Op.PAGE, partition)
        return page

    # Topics

    @_alone
    def topic_create(
        self, name: str, partitions: int = 1, *, retention_ms: int = 0, retention_bytes: int = 0
    ) -> m.TopicInfo:
        """Makes a topic. Retention of 0 is without limit."""
        body = m.topic_create(name, partitions, retention_ms, retention_bytes)
        # A second attempt would find its own first and report it as somebody else's.
        topic: m.TopicInfo = self._call(
            m.Op.TOPIC_CREATE, body, m.Op.TOPIC, repeat=Repeat.WHEN_REFUSED
        )
        return topic

    @_alone
    def topic_delete(self, name: str) -> m.TopicInfo:
        """Drops a topic and its records."""
        self._topics.pop(name, None)
        body = m.topic_name(name)
        topic: m.TopicInfo = self._call(
            m.Op.TOPIC_DELETE, body, m.Op.TOPIC, repeat=Repeat.WHEN_REFUSED
        )
        return topic

    @_alone
    def topic_describe(self, name: str) -> m.TopicInfo:
        """Describes a topic."""
        return self._describe(name, self._until())

    def _describe(self, name: str, until: float) -> m.TopicInfo:
        body = m.topic_name(name)
        topic: m.TopicInfo = self._read(m.Op.TOPIC_DESCRIBE, body, m.Op.TOPIC, until=until)
        self._topics[name] = topic
        return topic

    @_alone
    def topic_list(self) -> List[m.TopicInfo]:
        """Describes all topics."""
        topics: List[m.TopicInfo] = self._read(m.Op.TOPIC_LIST, b"", m.Op.TOPICS)
        return topics

    @_alone
    def topic_alter(
        self, name: str, *, retention_ms: int = 0, retention_bytes: int = 0
    ) -> m.TopicInfo:
        """Changes what a topic keeps."""
        body = m.topic_alter(name, retention_ms, retention_bytes)
        topic: m.TopicInfo = self._call(
            m.Op.TOPIC_ALTER, body, m.Op.TOPIC, repeat=Repeat.ALIKE
        )
        return topic

    @_alone
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
                m.topic_key(topic.id, index),
                durability,
                lambda options: m.topic_append(options, topic.id, partition, key, pairs),
                until,
            )
            return answer

        return self._on_topic(name, append)

    @_alone
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
            where = m.topic_key(topic.id, partition)
            records: m.Records = self._call(
                m.Op.TOPIC_READ, body, m.Op.RECORDS, where, until, repeat=Repeat.FREELY, wait=wait
            )
            return records

        return self._on_topic(name, read)

    @_alone
    def topic_offsets(self, name: str, partition: int, time_ms: int = 0) -> m.Offsets:
        """Start and end of a topic partition, and the first offset at or after a time (0: none)."""

        def ask(topic: m.TopicInfo, until: float) -> m.Offsets:
            body = m.topic_offsets(topic.id, partition, time_ms)
            where = m.topic_key(topic.id, partition)
            offsets: m.Offsets = self._read(m.Op.TOPIC_OFFSETS, body, m.Op.OFFSETS, where, until)
            return offsets

        return self._on_topic(name, ask)

    @_alone
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
                m.topic_key(topic.id, partition),
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

    def _partition_for(self, where: _Where, until: float) -> Optional[int]:
        """The partition of a request. That of a key only when the configuration makes use of it."""
        if where is None or isinstance(where, int):
            return where
        if self._session or self._shard_aware:
            return self._known_map(until).partition_of(where)
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
        known = self._candidates.order_for_map(
            self._known_addresses(), self._asks_for_map, self._connections
        )
        self._asks_for_map += 1
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
                except BaseException:
                    self._drop(connection)
                    raise
            except IronringError:
                continue
            self._candidates.gave_map(address)
            # A node may be behind; after several of those it is another cluster than before.
            if self._map and found.epoch < self._map.epoch and self._older_maps < _OLDER_MAPS_MAX:
                self._older_maps += 1
            else:
                self._older_maps = 0
                self._use_map(found)
            return

    # Calls

    def _until(self) -> float:
        """When the call that began is over. Everything it takes shares that."""
        return self._begun + self.deadline

    def _read(
        self,
        op: m.Op,
        body: bytes,
        expected: m.Op,
        where: _Where = None,
        until: Optional[float] = None,
    ) -> Any:
        return self._call(op, body, expected, where, until, repeat=Repeat.FREELY)

    def _call(
        self,
        op: m.Op,
        body: bytes,
        expected: m.Op,
        where: _Where = None,
        until: Optional[float] = None,
        *,
        repeat: Repeat,
        wait: float = 0.0,
    ) -> Any:
        """Sends a request without a place in a session until it is answered, refused for good, or
        out of time."""
        until = self._until() if until is None else until
        partition = self._partition_for(where, until)
        until += wait
        call = Call(repeat)
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
            if again.route:
                self._shard_aware = True
                try:
                    partition = self._partition_for(where, until)
                except IronringError:
                    pass  # without a map any address that is known may do

    def _write(
        self,
        op: m.Op,
        expected: m.Op,
        where: _Where,
        durability: Optional[m.Durability],
        encode: _Encode,
        until: float,
    ) -> Any:
        """Sends a write, numbered if the configuration says so."""
        level = self.durability if durability is None else durability
        partition = self._partition_for(where, until)
        if not self._session or partition is None:
            body = encode(m.WriteOptions(level))
            return self._call(op, body, expected, where, until, repeat=Repeat.WHEN_REFUSED)
        call = Call(Repeat.IN_SESSION)
        encode(m.WriteOptions(level))  # what breaks a rule opens no session
        session, sequence = self._place(partition, until)
        definite = True
        try:
            while True:
                body = encode(m.WriteOptions(level, session, sequence))
                try:
                    turn = self._turn(call, until)
                    answer = self._attempt(op, body, expected, partition, turn, until)
                    receipt = answer.receipt if isinstance(answer, m.Appended) else answer
                    call.answered(receipt.duplicate)
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
            if error.code in ANOTHER_MAY_SERVE:
                self._candidates.refuses(connection.address)
            if error.code in (ErrorCode.NOT_LEADER, ErrorCode.TOO_FEW_REPLICAS):
                # Too few: others may have elected another leader meanwhile.
                owner = self._owner(partition) if self._shard_aware else None
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
