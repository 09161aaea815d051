"""In which order addresses are tried when any will do, and how long each. No clock, no sockets."""

from __future__ import annotations

from typing import Container, List, Optional, Sequence, Set

# The least share of an attempt is one of so many parts: a handshake over a long way takes its time.
# Addresses that no time is left for come first in the next attempt.
_SHARES_MAX = 4

# While somebody refuses, every so many rounds of asking for a map go through all addresses alike.
# One that seems worse than the others may be the only one that knows the new leader.
_PLAIN_ROUND = 4


class Candidates:
    """What came of the addresses that were tried."""

    def __init__(self) -> None:
        #: Those that could not be reached, or fell silent, when they were tried last.
        self._failed: Set[str] = set()
        #: The one that said last that it does not lead, asked in place of the one that does.
        self._passed: Optional[str] = None
        #: Those that said that another may serve what they were asked for. What they know is no help
        #: then: a node that is cut off from the others does not hear of its successor.
        self._refusing: Set[str] = set()

    def order(self, known: Sequence[str]) -> List[str]:
        """All of them in the order to try them in."""
        passed = self._passed
        first = known.index(passed) + 1 if passed is not None and passed in known else 0
        return sorted([*known[first:], *known[:first]], key=self.has_failed)

    def order_for_map(
        self, known: Sequence[str], turn: int, connected: Container[str]
    ) -> List[str]:
        """All of them in the order to ask for a map in, the `turn`th time: another one first each
        time."""
        rounds, first = divmod(turn, len(known))
        rotated = [*known[first:], *known[:first]]
        if not self._refusing:
            # Those that answered lately first: one that says nothing costs its share of the attempt.
            return sorted(rotated, key=lambda a: (self.has_failed(a), a not in connected))
        if rounds % _PLAIN_ROUND == _PLAIN_ROUND - 1:
            return rotated
        # Whoever has a connection is who refuses, or a shard of the same node.
        return sorted(rotated, key=lambda a: (a in self._refusing, self.has_failed(a)))

    def has_failed(self, address: str) -> bool:
        """Whether to try others before."""
        return address in self._failed

    def reached(self, address: str) -> None:
        """There is a connection."""
        self._failed.discard(address)

    def failed(self, address: str) -> None:
        """There was none to be had, or nothing came on it."""
        self._failed.add(address)

    def refuses(self, address: str) -> None:
        """`address` said that another may serve what it was asked for."""
        self._refusing.add(address)

    def gave_map(self, address: str) -> None:
        """`address` gave its map. When it is none of those that refuse, their successors are known,
        or they refuse again."""
        if address not in self._refusing:
            self._refusing.clear()

    def does_not_lead(self, address: str, owner: Optional[str], configured: Sequence[str]) -> None:
        """`address` said that it does not lead. When it was asked in place of the `owner`, the next
        one is asked from here on."""
        if owner != address:
            self._passed = address
            # The one that leads may have failed before.
            self._failed.difference_update(configured)


def share(left: float, remaining: int, attempt: float) -> float:
    """Seconds that the first of `remaining` addresses may take of those left, so that one that says
    nothing leaves some for the others."""
    return max(0.0, min(left, max(left / remaining, attempt / _SHARES_MAX)))
