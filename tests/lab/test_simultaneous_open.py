"""Two dials that meet on the way, as in a punch: the kernel makes one connection of them that nobody accepts."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Callable

from node.names.multiaddr import Multiaddr
from node.net.stream import RawConnection
from node.net.tcp import TcpTransport
from tests.support.connections import upgraded

ALICE, BOB = Multiaddr("/ip4/127.0.0.1/tcp/5001"), Multiaddr("/ip4/127.0.0.1/tcp/5002")
# Loses the first SYN (60 bytes) to each port, so that both ends have sent theirs when the second ones arrive.
RULES = """
add table inet lossy
add chain inet lossy input { type filter hook input priority 0; }
add rule inet lossy input tcp dport 5001 tcp flags syn / syn,ack quota until 100 bytes drop
add rule inet lossy input tcp dport 5002 tcp flags syn / syn,ack quota until 100 bytes drop
"""


async def meet() -> None:
    transport = TcpTransport()
    accepted: asyncio.Queue[RawConnection] = asyncio.Queue()
    listeners = [await transport.listen(addr, accepted.put_nowait) for addr in (ALICE, BOB)]
    one, other = await asyncio.gather(
        transport.dial(BOB, source=ALICE, strict_source=True), transport.dial(ALICE, source=BOB, strict_source=True)
    )
    assert (one.local, one.remote, other.local, other.remote) == (ALICE, BOB, BOB, ALICE)
    assert accepted.empty()

    alice, bob = await upgraded(one, other)  # both connected: the roles come from elsewhere
    stream = await alice.muxed.open_stream()
    await stream.write(b"through the hole")
    assert await (await bob.incoming.get()).read() == b"through the hole"
    for end in (alice, bob):
        await end.muxed.close()
    for listener in listeners:
        await listener.close()


def test_dials_from_both_listen_ports_become_one_connection(inside: Callable[[Callable[[], None]], None]) -> None:
    def check() -> None:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        subprocess.run(["nft", "-f", "-"], input=RULES, text=True, check=True)
        asyncio.run(meet())

    inside(check)
