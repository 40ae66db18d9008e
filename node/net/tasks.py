"""Background tasks with an owner: nothing started here outlives `close`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

logger = logging.getLogger(__name__)


class Tasks:
    """The tasks of one owner; whoever spawns bounds how many."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Any]] = set()
        self._closed = False

    def spawn(self, work: Coroutine[Any, Any, object], name: str) -> asyncio.Task[Any]:
        """Run `work` until it ends or `close` cancels it; an exception that it does not handle is logged."""
        task = asyncio.create_task(work, name=name)
        self._running.add(task)
        task.add_done_callback(self._ended)
        if self._closed:
            task.cancel()
        return task

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("%s failed: %r", task.get_name(), error, exc_info=error)

    async def drain(self, timeout: float) -> None:
        """Wait until nothing runs any more, or `timeout` seconds have passed."""
        if others := self._running - {asyncio.current_task()}:
            await asyncio.wait(others, timeout=timeout)

    async def close(self) -> None:
        """Cancel what still runs and wait for it; the calling task itself is left alone."""
        self._closed = True
        others = self._running - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def __len__(self) -> int:
        return len(self._running)
