"""The question to a relay whether it sees a peer at an IP address, and the relay's answer.

Whoever is asked to write to many ports of an address wants to hear from somebody else that the peer is there. A relay
knows: both are connected to it. It says yes or no, and yes only to who has a circuit with that peer at the moment: so
nobody learns an address by asking, nor by guessing where somebody is whom he has nothing to do with.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from typing import TYPE_CHECKING

from node.errors import NodeError, RemoteProtocolError
from node.events import Circuit, CircuitStep, Path
from node.net.stream import read_frame, write_frame
from node.wire.predict import MAX_MESSAGE, WITNESS_PROTOCOL, Witness, decode_testimony, testimony

if TYPE_CHECKING:
    from ipaddress import IPv4Address

    from node.events import Event
    from node.names.peerid import PeerId
    from node.net.connection import Connection, Stream
    from node.protocols.api import HostApi, Unsubscribe

logger = logging.getLogger(__name__)

TIMEOUT = 5.0
"""Seconds for question and answer."""


class WitnessService:
    """Answers, at a relay."""

    def __init__(self, host: HostApi) -> None:
        self._host = host
        self._circuits: Counter[frozenset[PeerId]] = Counter()  # by both ends; bounded by the relay's circuits
        self._unsubscribe: Unsubscribe | None = None

    async def start(self) -> None:
        """Answer from now on, for the circuits that are made from now on."""
        self._unsubscribe = self._host.subscribe(self._happened)
        self._host.handle(WITNESS_PROTOCOL, self._serve)

    async def close(self) -> None:
        """Answer no more."""
        self._host.unhandle(WITNESS_PROTOCOL)
        if self._unsubscribe is not None:
            self._unsubscribe()

    def _happened(self, event: Event) -> None:
        if not isinstance(event, Circuit):
            return
        ends = frozenset((event.source, event.target))
        if event.stage is CircuitStep.OPENED:
            self._circuits[ends] += 1
        elif self._circuits[ends] > 1:
            self._circuits[ends] -= 1
        else:
            del self._circuits[ends]

    async def _serve(self, stream: Stream) -> None:
        if stream.connection.path is not Path.DIRECT:
            raise RemoteProtocolError(f"{stream.peer} asks through another relay")
        async with asyncio.timeout(TIMEOUT):
            asked = Witness.from_bytes(await read_frame(stream, MAX_MESSAGE))
            known = self._host.swarm.connections(asked.peer)
            have_circuit = frozenset((stream.peer, asked.peer)) in self._circuits
            seen = have_circuit and any(each.path is Path.DIRECT and each.remote.ip == asked.ip for each in known)
            await write_frame(stream, testimony(seen))


async def seen_by_relay(host: HostApi, relayed: Connection, ip: IPv4Address) -> bool:
    """Ask the relay of a connection whether it sees the peer at `ip`; one that does not answer has not seen it."""
    relay: PeerId | None = relayed.remote.relay_part().peer_id
    direct = None if relay is None else host.swarm.direct(relay)
    if direct is None or WITNESS_PROTOCOL not in host.protocols_of(direct.peer):
        return False
    try:
        async with asyncio.timeout(TIMEOUT):
            return await _ask(direct, Witness(relayed.peer, ip))
    except (NodeError, TimeoutError) as error:
        logger.info("%s does not say where it sees %s: %r", direct.peer, relayed.peer, error)
        return False


async def _ask(relay: Connection, question: Witness) -> bool:
    stream = await relay.new_stream([WITNESS_PROTOCOL])
    try:
        await write_frame(stream, question.to_bytes())
        seen = decode_testimony(await read_frame(stream, MAX_MESSAGE))
        await stream.close()
    except BaseException:
        stream.reset()
        raise
    return seen
