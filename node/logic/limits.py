"""How much of the node one peer, and all peers together, may take.

Facts: every libp2p implementation had an advisory for unbounded connections or streams (CVE-2022-23492 in go,
CVE-2022-23487 in js). The figures below are those of go's resource manager, divided where a lab node needs less.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Bound:
    """At most `total` in all, of which one owner has at most `each`."""

    total: int
    each: int

    def __post_init__(self) -> None:
        if self.total < 1 or self.each < 1:
            raise ValueError(f"a bound must allow at least one: {self}")


CONNECTIONS = Bound(total=512, each=8)
"""Open connections, and those to one peer."""
INBOUND = Bound(total=512, each=64)
"""Of those, direct inbound ones, and those from one IP address: who makes identities at will must not take all."""
UPGRADING = Bound(total=128, each=32)
"""Inbound connections that have not proved who they are, and those from one IP address."""
NEGOTIATING = Bound(total=1024, each=128)
"""Inbound streams without a protocol yet, and those of one peer."""
STREAMS = Bound(total=512, each=64)
"""Inbound streams of one protocol, and those of one peer, where `STREAMS_OF` says nothing else."""
STREAMS_OF = {
    "/ipfs/ping/1.0.0": Bound(total=64, each=4),
    "/ipfs/id/1.0.0": Bound(total=128, each=16),
    "/ipfs/id/push/1.0.0": Bound(total=128, each=16),
    "/libp2p/dcutr": Bound(total=64, each=2),
    "/libp2p/circuit/relay/0.2.0/hop": Bound(total=256, each=64),
}


@dataclass(slots=True)
class Budget:
    """What is taken of a bound, by whom."""

    bound: Bound
    _taken: Counter[Hashable] = field(default_factory=Counter)
    _total: int = 0

    def take(self, owner: Hashable) -> bool:
        """Take one for `owner`; False, and nothing taken, when the bound is reached."""
        if self._total >= self.bound.total or self._taken[owner] >= self.bound.each:
            if not self._taken[owner]:
                del self._taken[owner]
            return False
        self._taken[owner] += 1
        self._total += 1
        return True

    def give(self, owner: Hashable) -> None:
        """Return one that `owner` took."""
        if self._taken[owner] < 1:
            raise ValueError(f"{owner!r} returns what it never took")
        self._taken[owner] -= 1
        self._total -= 1
        if not self._taken[owner]:
            del self._taken[owner]

    @property
    def taken(self) -> int:
        """How many are taken in all."""
        return self._total

    def taken_by(self, owner: Hashable) -> int:
        """How many `owner` has."""
        return self._taken.get(owner, 0)

    def __len__(self) -> int:
        """The number of owners that have at least one."""
        return len(self._taken)


class StreamBudgets:
    """One budget for each protocol that has, or had, an inbound stream."""

    def __init__(self) -> None:
        self._budgets: dict[str, Budget] = {}  # bounded by the protocols we serve: others are refused before

    def of(self, protocol: str) -> Budget:
        """Return the budget of a protocol that we serve."""
        budget = self._budgets.get(protocol)
        if budget is None:
            budget = self._budgets[protocol] = Budget(STREAMS_OF.get(protocol, STREAMS))
        return budget
