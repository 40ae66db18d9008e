"""How large packets may be in a real network: the limit that was asked for is what senders find, or are not told."""

from __future__ import annotations

from collections.abc import Callable

from lab.kernel.shaping import USERSPACE
from lab.run.pathmtu import MTU, measure_sizes

Inside = Callable[[Callable[[], None]], None]


def test_what_is_too_large_is_told_both_ways_and_in_a_black_hole_not_at_all(inside: Inside) -> None:
    def check() -> None:
        rows = measure_sizes(USERSPACE)
        assert len(rows) == 2 * 2 * 2 * 3, "with and without a hole, both versions, both ways, three sizes each"
        assert [row for row in rows if not row.ok] == []
        assert {row.link for row in rows} == {
            f"{link}, IPv{n}" for link in (f"mtu {MTU}", "black hole") for n in (4, 6)
        }
        told = {row.link for row in rows if row.quantity.startswith("ICMP") and row.measured}
        assert told == {f"mtu {MTU}, IPv4", f"mtu {MTU}, IPv6"}

    inside(check)
