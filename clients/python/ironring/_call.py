"""What to do after a failed attempt, and how writes are numbered. No clock, no sockets.

A write is *in doubt* when one of its attempts may have been applied. Only a definite answer to a
later attempt ends that. A change that can be made twice without harm goes like a write in a session:
it may be repeated, and it is not reported as not made when it may have been.
"""

from __future__ import annotations

import enum
import random
from typing import Dict, NamedTuple, Optional, Tuple

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

_PAUSE_FIRST = 0.010
_PAUSE_MAX = 1.0
#: First and longest pause while another node may take over any moment.
_FOLLOW_PAUSE_FIRST = 0.002
_FOLLOW_PAUSE_MAX = 0.025
#: The same after so many attempts, which is about a second.
_FOLLOW_CLOSELY = 50
#: After so many attempts without an answer the next ones may take twice as long.
_SILENT_ATTEMPTS = 3
_FOLLOW_LATER_PAUSE_MAX = 0.1
#: Refusals that hint that the cluster map is old: another node may serve the partition by now.
ANOTHER_MAY_SERVE = frozenset(
    {
        ErrorCode.WRONG_PARTITION,
        ErrorCode.NOT_LEADER,
        ErrorCode.NOT_READY,
        ErrorCode.SHARD_FENCED,
        ErrorCode.TOO_FEW_REPLICAS,
    }
)


class Again(NamedTuple):
    """Try again after `pause` seconds."""

    pause: float
    #: The cluster map may be old.
    new_map: bool
    #: The session is of no more use; nothing of this request was applied in it.
    new_session: bool
    #: Requests have to go where the map says, whatever the configuration says.
    route: bool = False


class Repeat(enum.Enum):
    """How often a request may take effect."""

    #: It changes nothing that anybody sees.
    FREELY = enum.auto()
    #: Doing it twice is doing it once.
    ALIKE = enum.auto()
    #: The server applies it once by its session and sequence.
    IN_SESSION = enum.auto()
    #: Only when it is certain that it was not applied.
    WHEN_REFUSED = enum.auto()


class Call:
    """One call and its attempts."""

    def __init__(self, repeat: Repeat) -> None:
        self._repeat = repeat
        self._in_doubt = False
        self._attempts = 0
        self._silent = 0
        self._last: IronringError = DeadlineExceeded("no answer in time")

    def patience(self, first: float) -> Optional[float]:
        """How long the next attempt may take, when it can be repeated after that."""
        # A silent node is asked a few times: its successor is elected meanwhile.
        patience = first * 2 ** min(self._silent // _SILENT_ATTEMPTS, 16)
        return None if self._repeat is Repeat.WHEN_REFUSED else patience

    def failed(self, error: IronringError, sent: bool, rng: random.Random) -> Again:
        """An attempt failed. Raises when there is nothing more to try. `sent`: some of the request
        may have reached the server."""
        pause_min = 0.0
        self._silent += isinstance(error, DeadlineExceeded)
        new_map = new_session = route = False
        pause_first, pause_max = _PAUSE_FIRST, _PAUSE_MAX
        close = self._attempts < _FOLLOW_CLOSELY
        follow = _FOLLOW_PAUSE_FIRST, _FOLLOW_PAUSE_MAX if close else _FOLLOW_LATER_PAUSE_MAX
        if isinstance(error, ServerError):
            code, numbered = error.code, self._repeat is Repeat.IN_SESSION
            if isinstance(error, ConditionFailed):
                raise error
            if code == ErrorCode.UNKNOWN:
                self._doubt(error)
            elif code == ErrorCode.SEQUENCE_GAP and numbered:
                # What lies beyond a gap was not applied.
                new_session, self._in_doubt = True, False
            elif code == ErrorCode.SESSION_EXPIRED and numbered and not self._in_doubt:
                new_session = True
            elif not error.retriable or code == ErrorCode.SEQUENCE_GAP:
                raise self._settled(error)
            elif code == ErrorCode.OVERLOADED:
                pause_min = min(error.detail / 1000, _PAUSE_MAX)
            new_map = code in ANOTHER_MAY_SERVE
            if code == ErrorCode.NOT_LEADER:
                route = True
                pause_first, pause_max = follow
        elif isinstance(error, InvalidRequest) or (isinstance(error, ProtocolError) and not sent):
            raise self._settled(error)
        else:
            new_map = True
            pause_first, pause_max = follow
            if sent:
                self._doubt(error)
        self._last = error
        full = min(pause_first * 2 ** min(self._attempts, 16), pause_max)
        self._attempts += 1
        return Again(max(rng.uniform(full / 2, full), pause_min), new_map, new_session, route)

    def answered(self, duplicate: bool) -> None:
        """An attempt was answered. A `duplicate` is the first answer to a write that was applied
        before: to an earlier attempt of this call if one may have been, else to the write of
        somebody who counts in the same session."""
        if duplicate and not self._in_doubt:
            reason = "the server had another write of this session and sequence"
            raise UnknownOutcome(f"the outcome is unknown: {reason}")

    def out_of_time(self) -> IronringError:
        """There is no time for another attempt."""
        return self._settled(self._last)

    def _doubt(self, error: IronringError) -> None:
        """The attempt may have been applied."""
        self._in_doubt |= self._repeat is not Repeat.FREELY
        if self._repeat is Repeat.WHEN_REFUSED:
            raise self._settled(error)

    def _settled(self, error: IronringError) -> IronringError:
        """A refusal tells of its own attempt only."""
        if not self._in_doubt:
            return error
        unknown = UnknownOutcome(f"the outcome is unknown: {error}")
        unknown.__cause__ = error
        return unknown


class Sequences:
    """Numbers writes: 1, 2, 3, ... for each pair of session and partition. A number is used up by a
    definite answer only. After an unknown outcome the partition goes on in another session: its
    next write must not be taken for the one in doubt."""

    def __init__(self) -> None:
        self._current: Optional[int] = None
        self._used: Dict[int, Tuple[int, int]] = {}

    def next(self, partition: int) -> Optional[Tuple[int, int]]:
        """Session and number of the next write; `None`: a session has to be opened."""
        if partition in self._used:
            session, number = self._used[partition]
            return session, number + 1
        return None if self._current is None else (self._current, 1)

    def opened(self, session: int) -> None:
        """A session nobody has used yet."""
        self._current = session

    def used(self, partition: int, session: int, number: int) -> None:
        """The write got a definite answer."""
        self._used[partition] = (session, number)

    def renounce(self, partition: int, session: int) -> None:
        """The session is not used for the partition any more."""
        self._used.pop(partition, None)
        if self._current == session:
            self._current = None


