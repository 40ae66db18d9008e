"""The Redis by which the programs of a test find each other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import RedisError

from node.errors import NodeError

logger = logging.getLogger(__name__)

POLL = 0.5
"""Seconds between two looks for a text, which nothing tells of; upstream's programs do the same."""
KNOCK = 0.1
"""Seconds between two tries to reach a Redis that is starting."""


class BoardError(NodeError):
    """Redis did not do what it was asked."""


class Board:
    """A connection to it, from `open`; every wait is as long as its caller's deadline."""

    def __init__(self, redis: Any) -> None:
        self._redis = redis

    @classmethod
    @asynccontextmanager
    async def open(cls, host: str, port: int) -> AsyncIterator[Board]:
        """Connect, as soon as it can be reached."""
        # Lists are waited for without an end: the caller has the deadline.
        async with Redis(host=host, port=port, decode_responses=True, socket_timeout=None) as redis:
            board = cls(redis)
            await board._reach()
            try:
                yield board
            except RedisError as error:
                raise BoardError(f"Redis at {host}:{port}: {error}") from error

    async def _reach(self) -> None:
        told = False
        while True:
            try:
                await self._redis.ping()
            except (RedisError, OSError) as error:
                if not told:
                    logger.warning("Redis is not there yet, and is tried again until the deadline: %s", error)
                told = True
                await asyncio.sleep(KNOCK)
            else:
                return

    async def push(self, key: str, *values: str) -> None:
        """Add values to a list, each for somebody to take."""
        await self._redis.rpush(key, *values)

    async def take(self, key: str) -> str:
        """Take the first of a list, when there is one."""
        _, value = await self._redis.blpop(key, 0)
        return str(value)

    async def put(self, key: str, value: str) -> None:
        """Write a text."""
        await self._redis.set(key, value)

    async def read(self, key: str) -> str:
        """A text, when it is there."""
        while (value := await self._redis.get(key)) is None:  # noqa: ASYNC110 - nothing tells of a text
            await asyncio.sleep(POLL)
        return str(value)
