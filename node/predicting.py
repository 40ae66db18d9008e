"""Port prediction, put together: what it knows of the NAT, whose addresses are refused, and before what it is tried.

Built by the host when its configuration asks for it, and not imported otherwise.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from node.events import NatLearnt
from node.logic.gating import Gater
from node.logic.nat import Mapping, NatKind
from node.logic.prediction import Ways
from node.protocols.predict import Policy, Predictor
from node.protocols.witness import WitnessService

if TYPE_CHECKING:
    from node.host import Host, HostConfig

logger = logging.getLogger(__name__)

MEASURE = 6.0
"""Seconds that a node which has just started waits for its NAT's kind; STUN takes four where a filter is silent."""


class Predicting:
    """The services, as one: a relay is a witness, any other node predicts."""

    def __init__(self, host: Host, config: HostConfig) -> None:
        self._host = host
        self._config = config
        self._exit = AsyncExitStack()

    async def start(self) -> None:
        """Begin."""
        host, config = self._host, self._config
        if config.relay_server:
            witness = WitnessService(host)
            self._exit.push_async_callback(witness.close)
            await witness.start()
        if host.dcutr is None:
            return
        policy = Policy(Ways(config.predict_ports), config.stun)
        predictor = Predictor(host, self._kind, Gater(config.deny, config.allow), policy)
        self._exit.push_async_callback(predictor.close)
        await predictor.start()
        host.dcutr.ahead = predictor.ahead

    async def close(self) -> None:
        """End."""
        if self._host.dcutr is not None:
            self._host.dcutr.ahead = None
        await self._exit.aclose()

    async def _kind(self) -> NatKind:
        """What is known of our NAT, after waiting for a measurement that is under way, as at the node's start."""
        oneself = self._host.oneself
        assert oneself is not None
        if oneself.kind().mapping is Mapping.UNKNOWN and self._config.stun:
            learnt = asyncio.Event()
            unsubscribe = self._host.subscribe(lambda event: learnt.set() if isinstance(event, NatLearnt) else None)
            try:
                async with asyncio.timeout(MEASURE):
                    await learnt.wait()
            except TimeoutError:
                logger.info("no STUN server has told the NAT's kind within %g s", MEASURE)
            finally:
                unsubscribe()
        return oneself.kind()
