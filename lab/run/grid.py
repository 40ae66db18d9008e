"""Every NAT of the grid built, measured and compared over IPv4 and IPv6, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import Final

from lab.model.ipv6 import Ip
from lab.model.nat import Nat
from lab.model.writing import nat_words
from lab.observe.certificate import Certificate
from lab.run.certify import certify_nat

VERSIONS: Final = (Ip.V4, Ip.V6)
AT_ONCE: Final = 6
"Networks that exist at a time: enough to keep the kernel busy while another's packets have their time."


async def certify_grid(
    nats: Iterable[Nat],
    *,
    ips: Sequence[Ip] = VERSIONS,
    full: bool = False,
    done: Callable[[Certificate], None] = lambda _: None,
) -> list[Certificate]:
    """Measure these NATs over these versions, each in a network of its own; `router` spells its NAT out."""
    slots = asyncio.Semaphore(AT_ONCE)

    async def one(nat: Nat, ip: Ip) -> Certificate:
        async with slots:
            certificate = await certify_nat(nat_words(nat), nat, full=full, ip=ip)
        done(certificate)
        return certificate

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(nat, ip)) for nat, ip in product(nats, ips)]
    return [task.result() for task in tasks]
