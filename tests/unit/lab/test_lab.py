"""What a lab does with its peers together."""

from __future__ import annotations

import asyncio

import pytest

from lab.errors import PeerError, PeerUnsupported
from lab.lab import at_once


def test_the_first_failure_ends_the_rest_and_comes_by_itself() -> None:
    ended: list[str] = []

    async def waits() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("the other one")

    async def fails() -> None:
        await asyncio.sleep(0)
        raise PeerUnsupported("go does not support that")

    with pytest.raises(PeerUnsupported, match="go does not support that"):
        asyncio.run(at_once([waits(), fails()]))
    assert ended == ["the other one"]


def test_a_mistake_of_the_labs_own_is_not_taken_for_a_peers() -> None:
    async def breaks() -> None:
        raise ZeroDivisionError

    async def fails() -> None:
        raise PeerError("alice: no")

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(at_once([breaks(), fails()]))
    assert caught.group_contains(ZeroDivisionError)
