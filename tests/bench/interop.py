"""Our node with each other implementation: bytes by `/perf/1.0.0` and handshakes over TCP, Noise and yamux.

Both programs speak the contract of peers, so that whoever dials is asked for `perf` and `dial`, whatever it is written
in. Beside the pairs stands our node with itself; its two processes share the machine as every pair's do. What limits a
pair is its slower side. A handshake is a `dial` up to its first ping, and the `disconnect` after it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Final

from lab.peers.foreign import FOREIGN, Foreign
from tests.bench.figures import Figure, Section
from tests.bench.program import LISTEN, BenchError, Node, Peer

MIB: Final = 1 << 20
SHARE: Final = {"py": 0.0625, "js": 0.25}
"of the amount that others move: py-libp2p would take minutes"
Measured = tuple[float, float, float | None]
"MiB/s up and down, and dials a second"
WARM_UP: Final = 3
"Dials that are not counted."


def run(mib: int, rounds: int, handshakes: int) -> Section:
    """Measure each pair `rounds` times, in turn."""
    built = [each for each in FOREIGN if os.access(each.program, os.X_OK)]
    notes = [f"{each.name} is left out: `make peers` builds it" for each in FOREIGN if each not in built]
    starts: dict[str, Callable[[str], Peer]] = {"ours": Node}
    starts |= {each.name: _starter(each) for each in built}
    pairs = [("ours", "ours")] + [pair for each in built for pair in (("ours", each.name), (each.name, "ours"))]
    measured: dict[tuple[str, str], list[Measured]] = {pair: [] for pair in pairs}
    for number in range(rounds):
        turn = number % len(pairs)
        for dialer, listener in [*pairs[turn:], *pairs[:turn]]:
            amount = max(4, int(mib * min(SHARE.get(dialer, 1.0), SHARE.get(listener, 1.0))))
            try:
                # js-libp2p takes five connections a second from one host, and resets the others.
                dials = 0 if listener == "js" else handshakes
                found = measure(starts[dialer], starts[listener], amount, dials)
            except BenchError as error:
                notes.append(f"{dialer} → {listener}, round {number + 1}: {error}")
                continue
            measured[dialer, listener].append(found)
    figures = [figure for pair, found in measured.items() if found for figure in _figures(pair, found)]
    return Section(
        "interop", "Our node with the others, over TCP, Noise and yamux on loopback", tuple(figures), tuple(notes)
    )


def _figures(pair: tuple[str, str], found: list[Measured]) -> list[Figure]:
    name = " → ".join(pair)
    up, down, dials = zip(*found, strict=True)
    figures = [Figure(f"{name}: up", "MiB/s", up), Figure(f"{name}: down", "MiB/s", down)]
    made = tuple(each for each in dials if each is not None)
    return [*figures, Figure(f"{name}: dials", "1/s", made)] if made else figures


def _starter(foreign: Foreign) -> Callable[[str], Peer]:
    flags = ("--security", "noise", "--muxer", "yamux", "--listen", LISTEN)
    return lambda name: Peer([str(foreign.program), "--name", name, *flags])


def measure(dialer: Callable[[str], Peer], listener: Callable[[str], Peer], mib: int, handshakes: int) -> Measured:
    """Of a second transfer, whose first has warmed up windows and compilers; without handshakes no dials."""
    with ExitStack() as running:
        there, here = running.enter_context(listener("listener")), running.enter_context(dialer("dialer"))
        address = there.ready()
        here.ready()
        peer = here.ask("dial", addr=address)["peer"]
        for _ in range(2):
            took = here.ask("perf", peer=peer, upload=mib * MIB, download=mib * MIB)
        dials = _dials(here, address, peer, handshakes) if handshakes else None
        return mib / took["upload_seconds"], mib / took["download_seconds"], dials


def _dials(here: Peer, address: str, peer: str, count: int) -> float:
    here.ask("disconnect", peer=peer)
    began = 0.0
    for number in range(WARM_UP + count):
        if number == WARM_UP:
            began = time.perf_counter()
        here.ask("dial", addr=address)
        here.ask("disconnect", peer=peer)
    return count / (time.perf_counter() - began)
