"""Every NAT of the grid built, measured and compared, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from lab.model.nat import Nat
from lab.model.writing import nat_words
from lab.observe.certificate import Certificate
from lab.run.certify import certify_nat

AT_ONCE: Final = 6
"Networks that exist at a time: enough to keep the kernel busy while another's packets have their time."


async def certify_grid(
    nats: Iterable[Nat], *, full: bool = False, done: Callable[[Certificate], None] = lambda _: None
) -> list[Certificate]:
    """Measure these NATs, each in a network of its own; a certificate's `router` spells its NAT out."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(nat: Nat) -> Certificate:
        async with slots:
            certificate = await certify_nat(nat_words(nat), nat, full=full)
        done(certificate)
        return certificate

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(nat)) for nat in nats]
    return [task.result() for task in tasks]
