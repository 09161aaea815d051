"""One connection: frames out, frames in."""

from __future__ import annotations

import socket
import time
from typing import Any, Optional, Tuple

from . import _messages as m
from ._errors import ConnectionFailed, DeadlineExceeded, ProtocolError, ServerError

# A connection unused for longer is probed before it is used again: servers close idle ones.
_PROBE_AFTER = 1.0


def _time_left(until: float) -> float:
    left = until - time.monotonic()
    if left <= 0:
        raise DeadlineExceeded("no answer in time")
    return left


class Connection:
    """A connection after its handshake. One request at a time."""

    def __init__(self, address: str, hello: bytes, until: float) -> None:
        self.address = address
        host, separator, port = address.rpartition(":")
        if not separator or not port.isdigit():
            raise ConnectionFailed(f"{address}: an address is host:port")
        try:
            self._socket = socket.create_connection(
                (host.strip("[]"), int(port)), timeout=_time_left(until)
            )
        except socket.timeout as error:
            raise DeadlineExceeded(f"{address}: no answer in time") from error
        except OSError as error:
            raise ConnectionFailed(f"{address}: {error}") from error
        self._correlation = 0
        #: The one agreed on, once it is.
        self._version: Optional[int] = None
        self._last_used = time.monotonic()
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            welcome = self.exchange(m.Op.HELLO, hello, m.Op.WELCOME, until, None)
            self.server: m.ServerInfo = welcome
            if welcome.version != m.VERSION:
                raise ProtocolError(f"the server agreed on version {welcome.version}, not offered")
            self._version = welcome.version
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the socket."""
        self._socket.close()

    def is_alive(self) -> bool:
        """False when the server has closed the connection while it was unused."""
        if time.monotonic() - self._last_used < _PROBE_AFTER:
            return True
        try:
            self._socket.setblocking(False)
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False  # closed, or bytes that nobody asked for

    def exchange(
        self,
        op: m.Op,
        body: bytes,
        expected: m.Op,
        until: float,
        deadline: Optional[float],
        flags: int = 0,
    ) -> Any:
        """Sends a request and returns what its answer says. `deadline`: when the server may give it
        up; `until`: when this side does. `age_ms` is how old the last answer said it may be."""
        self._correlation += 1
        deadline_ms = 0
        if deadline is not None:
            left = int(1000 * (deadline - time.monotonic()))
            deadline_ms = max(1, min(left, (1 << 32) - 1))
        frame = m.encode_frame(op, self._correlation, deadline_ms, body, flags)
        try:
            self._socket.settimeout(_time_left(until))
            self._socket.sendall(frame)
            while True:
                header, answer = self._receive(until)
                if header.correlation == self._correlation:
                    break
                if header.correlation == 0:
                    # Not about a request: the connection is about to close.
                    try:
                        m.decode_answer(header, answer)
                    except ServerError as error:
                        if op == m.Op.HELLO:
                            raise
                        raise ConnectionFailed(f"{self.address}: {error}") from error
                    raise ProtocolError("an answer to nothing")
                # To a request that was left alone. What is damaged tells nothing of what follows.
                m.check_body(header, answer)
        except socket.timeout as error:
            raise DeadlineExceeded("no answer in time") from error
        except OSError as error:
            raise ConnectionFailed(f"{self.address}: {error}") from error
        self._last_used = time.monotonic()
        self.age_ms = header.deadline_ms
        said = m.decode_answer(header, answer)
        if header.opcode != expected:
            raise ProtocolError(f"{op.name} was answered with {m.Op(header.opcode).name}")
        return said

    def _receive(self, until: float) -> Tuple[m.Header, bytes]:
        header = m.decode_header(self._read(m.HEADER_BYTES, until))
        # The handshake looks the same in every version.
        if self._version is not None and header.version != self._version:
            raise ProtocolError(f"an answer in version {header.version}, not {self._version}")
        return header, self._read(header.body_len, until)

    def _read(self, length: int, until: float) -> bytes:
        buffer = bytearray(length)
        view = memoryview(buffer)
        at = 0
        while at < length:
            self._socket.settimeout(_time_left(until))
            count = self._socket.recv_into(view[at:])
            if count == 0:
                raise ConnectionFailed(f"{self.address}: the server closed the connection")
            at += count
        return bytes(buffer)
