"""What tests of the node's upper rings share: hosts on loopback, and an eye on their events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import pytest

from node.events import Event
from node.host import Host, HostConfig
from node.names.multiaddr import Multiaddr

DEADLINE = 60.0
"""Seconds one wait may take on a busy machine."""
ANY_PORT = Multiaddr("/ip4/127.0.0.1/tcp/0")

_Event = TypeVar("_Event")


class Watch:
    """The events of a host from now on; past and future ones alike can be waited for."""

    def __init__(self, host: Host) -> None:
        self.events: list[Event] = []
        self._news = asyncio.Event()
        host.subscribe(self._add)

    def _add(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    async def saw(self, kind: type[_Event], where: Callable[[_Event], bool] = lambda event: True) -> _Event:
        async with asyncio.timeout(DEADLINE):
            while True:
                for event in self.events:
                    if isinstance(event, kind) and where(event):
                        return event
                self._news.clear()
                await self._news.wait()


def config_on_loopback(**flags: object) -> HostConfig:
    """A host without relaying and hole punching, unless asked for."""
    return HostConfig(**{"listen": (ANY_PORT,), "relay_client": False, "dcutr": False, **flags})  # type: ignore[arg-type]


@asynccontextmanager
async def two_hosts(**flags: object) -> AsyncIterator[tuple[Host, Host]]:
    """Two hosts that do not know each other; `flags` are HostConfig's, for both."""
    alice, bob = Host(config_on_loopback(**flags)), Host(config_on_loopback(**flags))
    async with asyncio.timeout(DEADLINE * 2), alice, bob:
        yield alice, bob


@pytest.fixture
def hosts() -> Callable[..., AbstractAsyncContextManager[tuple[Host, Host]]]:
    """Makes two hosts."""
    return two_hosts


@pytest.fixture
def loopback() -> Callable[..., HostConfig]:
    """Makes a configuration."""
    return config_on_loopback


@pytest.fixture
def watch() -> type[Watch]:
    """Watches a host."""
    return Watch
