"""What can go wrong, with *failed* and *unknown* kept apart."""

from __future__ import annotations

import enum
from typing import Union


class ErrorCode(enum.IntEnum):
    """Why a server refused. The numbers are part of the protocol."""

    MALFORMED = 1
    UNSUPPORTED_VERSION = 2
    UNKNOWN_OPCODE = 3
    BAD_CHECKSUM = 4
    TOO_LARGE = 5
    INVALID_ARGUMENT = 6
    HANDSHAKE_REQUIRED = 7
    WRONG_CLUSTER = 8
    TOO_MANY_CONNECTIONS = 9
    OVERLOADED = 20
    DEADLINE_EXCEEDED = 21
    UNKNOWN = 22
    NOT_READY = 23
    NO_SPACE = 24
    MEMORY_FULL = 25
    SHARD_FENCED = 26
    CORRUPT = 27
    WRONG_PARTITION = 28
    NOT_LEADER = 29
    TOO_FEW_REPLICAS = 30
    NOT_FOUND = 40
    CONDITION_FAILED = 41
    SESSION_EXPIRED = 42
    SEQUENCE_GAP = 43
    SEQUENCE_TOO_OLD = 44
    UNKNOWN_TOPIC = 60
    TOPIC_EXISTS = 61
    UNKNOWN_PARTITION = 62
    OFFSET_OUT_OF_RANGE = 63

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed later unchanged."""
        return self in _RETRIABLE


_RETRIABLE = frozenset(
    {
        ErrorCode.BAD_CHECKSUM,
        ErrorCode.TOO_MANY_CONNECTIONS,
        ErrorCode.OVERLOADED,
        ErrorCode.DEADLINE_EXCEEDED,
        ErrorCode.UNKNOWN,
        ErrorCode.NOT_READY,
        ErrorCode.NO_SPACE,
        ErrorCode.MEMORY_FULL,
        ErrorCode.SHARD_FENCED,
        ErrorCode.WRONG_PARTITION,
        ErrorCode.NOT_LEADER,
        ErrorCode.TOO_FEW_REPLICAS,
        ErrorCode.SEQUENCE_GAP,
    }
)


class IronringError(Exception):
    """Base of everything this package raises. All but `UnknownOutcome` mean that the call changed
    nothing."""


class ServerError(IronringError):
    """The server refused."""

    def __init__(self, code: Union[ErrorCode, int], detail: int, message: str) -> None:
        name = code.name.lower() if isinstance(code, ErrorCode) else f"error {code}"
        super().__init__(f"{name}: {message}")
        #: An `ErrorCode`, or the number of one that this version does not know.
        self.code = code
        #: A number the code defines (docs/protocol.md).
        self.detail = detail
        #: The server's words.
        self.message = message

    @property
    def retriable(self) -> bool:
        """Whether the same request may succeed later unchanged."""
        return isinstance(self.code, ErrorCode) and self.code.retriable


class ConditionFailed(ServerError):
    """A compare-and-set or put-if-absent found another version."""

    @property
    def current_version(self) -> int:
        """The version the key has; 0: it does not exist."""
        return self.detail


class ConnectionFailed(IronringError):
    """No server could be reached, or the connection broke under a read."""


class DeadlineExceeded(IronringError):
    """The deadline passed before the request was sent, or before a read was answered."""


class UnknownOutcome(IronringError):
    """A write may have been applied or not. Read back what it would have changed."""


class ProtocolError(IronringError):
    """The server's bytes are not this protocol, or not the answer to what was asked."""


class InvalidRequest(IronringError, ValueError):
    """The request breaks a limit or a rule; it was not sent."""


def server_error(code: int, detail: int, message: str) -> ServerError:
    """The exception for an `Error` frame."""
    try:
        known: Union[ErrorCode, int] = ErrorCode(code)
    except ValueError:
        known = code
    kind = ConditionFailed if known == ErrorCode.CONDITION_FAILED else ServerError
    return kind(known, detail, message)
