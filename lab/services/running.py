"""The lab's own programs in one network, from its making to its end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack

from lab.errors import KernelError
from lab.kernel.network import Network
from lab.kernel.resolver import use_name_server
from lab.plan.switching import exchanges
from lab.services.authority import Reply
from lab.services.name_server import NameServer
from lab.services.reflector import Reflector, Side


class Services:
    """What runs in a network beside peers. Made by `start`, ended by `close`."""

    def __init__(self, name_server: NameServer | None, owned: AsyncExitStack) -> None:
        self._name_server = name_server
        self._owned = owned

    @classmethod
    async def start(cls, network: Network, on_reply: Callable[[Reply], None]) -> Services:
        """Start all that the network's plan has; raises KernelError, and then nothing runs."""
        async with AsyncExitStack() as owned:
            _start_reflectors(network, owned)
            name_server = await _start_name_server(network, on_reply, owned)
            return cls(name_server, owned.pop_all())
        raise AssertionError("the stack swallows nothing")

    def announce(self, peer: str, peer_id: str) -> None:
        """A peer is ready: names that stand for it lead to it from now on."""
        if self._name_server is not None:
            self._name_server.authority.learn(peer, peer_id)

    async def close(self) -> None:
        """End all of them."""
        await self._owned.aclose()


def _start_reflectors(network: Network, owned: AsyncExitStack) -> None:
    for group in exchanges(network.plan.lans):
        reflector = Reflector([Side(network.spaces[lan.router], lan.bridge, lan.switch.link_local) for lan in group])
        owned.callback(reflector.close)
        try:
            reflector.start()
        except OSError as error:
            names = ", ".join(lan.router for lan in group)
            raise KernelError(f"no reflector between the LANs of {names}: {error.strerror}") from error


async def _start_name_server(
    network: Network, on_reply: Callable[[Reply], None], owned: AsyncExitStack
) -> NameServer | None:
    plan = network.plan.dns
    if plan is None:
        return None
    await asyncio.to_thread(use_name_server, *plan.addresses)
    server = NameServer(plan, on_reply)
    owned.push_async_callback(server.close)
    try:
        await server.start(network.spaces[plan.space])
    except OSError as error:
        raise KernelError(f"no name server at {' and '.join(plan.addresses)}: {error.strerror}") from error
    return server
