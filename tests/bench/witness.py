"""When the kernel has really taken namespaces down, and not only been asked to.

It frees them in the background, in the order in which they were let go of. So a last one is let go of after them, which
a cable joins to one that stays: when that cable's end has vanished, all before it are gone.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from lab.kernel.link import Links, VethEnd
from lab.kernel.namespace import Namespace
from tests.bench.program import BenchError

GONE_WITHIN: Final = 30.0
"Seconds; the usual is a tenth of one."
_END: Final = "w0"


@contextmanager
def everything_gone() -> Iterator[None]:
    """What the block lets go of is gone when it has ended; raises `BenchError` if it is not in time."""
    with Namespace("witness") as witness:
        last = Namespace("last")
        with Links(witness) as links:
            links.add_veth(VethEnd(2, _END), VethEnd(2, "w1"), last)
        yield
        last.close()
        _await_alone(witness)


def _await_alone(witness: Namespace) -> None:
    deadline = time.monotonic() + GONE_WITHIN
    while time.monotonic() < deadline:
        with witness.entered():
            if _END not in (name for _, name in socket.if_nameindex()):
                return
        # Looked for, not listened for: netlink would cost, and wake us, in the middle of what is measured.
        time.sleep(0.0005)
    raise BenchError(f"the kernel has not taken everything down within {GONE_WITHIN:g} s")
