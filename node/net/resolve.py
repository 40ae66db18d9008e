"""Asking the DNS: what a resolution (`logic.resolving`) wants to know, asked of the system's name servers.

The servers are those of `/etc/resolv.conf`, read anew for each resolution, since a laptop's change with its networks.
Names are absolute: there is no search list, and `/etc/hosts` is not consulted. dnspython is imported with the first
name that there is to resolve; it costs a node that meets none a quarter of a second.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from node.logic.resolving import Kind, Question, Resolving

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver as DnsResolver
    from dns.rdatatype import RdataType

    from node.names.multiaddr import Multiaddr
    from node.names.peerid import PeerId

logger = logging.getLogger(__name__)

TRY: Final = 5.0
"""Seconds that one server has for one answer, as in glibc; then it or the next one is asked again."""
LIFETIME: Final = 10.0
"""Seconds for one question in all."""
RESOLUTION: Final = 20.0
"""Seconds for one resolution in all: a `/dnsaddr` may take several questions one after the other."""
QUESTIONS: Final = 32
"""Questions under way at a time, of all resolutions together."""

Found = Callable[["Multiaddr"], None]


class Resolver:
    """Resolves names in addresses; one for the whole node, so that its questions have a bound together."""

    def __init__(self) -> None:
        self._slots = asyncio.Semaphore(QUESTIONS)

    async def resolve(
        self,
        addrs: Iterable[Multiaddr],
        peer: PeerId | None = None,
        *,
        found: Found = lambda addr: None,
        timeout: float = RESOLUTION,
    ) -> Resolving:
        """Resolve `addrs` and return what came of it; addresses without a name are found at once.

        `found` is called with each address as soon as it is known, since another name may take long. What has no
        answer after `timeout` seconds counts as failed; nothing is raised for a name that does not resolve.
        """
        resolving = Resolving(addrs, peer)
        told = 0
        asked: dict[asyncio.Task[list[bytes] | str], Question] = {}
        deadline = asyncio.get_running_loop().time() + timeout
        try:
            while True:
                for addr in resolving.addrs[told:]:
                    told += 1
                    found(addr)
                asked |= {self._start(question): question for question in resolving.questions()}
                if not asked:
                    return resolving
                remaining = deadline - asyncio.get_running_loop().time()
                done, _ = await asyncio.wait(asked, timeout=remaining, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    _settle(resolving, asked.pop(task), task.result())
                if not done:
                    for question in asked.values():
                        resolving.failed(question, f"no answer in {timeout:g} s")
                    return resolving
        finally:
            for task in asked:
                task.cancel()
            await asyncio.gather(*asked, return_exceptions=True)

    def _start(self, question: Question) -> asyncio.Task[list[bytes] | str]:
        return asyncio.create_task(self._ask(question), name=f"question {question}")

    async def _ask(self, question: Question) -> list[bytes] | str:
        """The records of the answer, or why there is none."""
        async with self._slots:
            answer = await _ask(question)
        logger.debug("%s: %s", question, answer if isinstance(answer, str) else f"{len(answer)} records")
        return answer


def _settle(resolving: Resolving, question: Question, answer: list[bytes] | str) -> None:
    if isinstance(answer, str):
        resolving.failed(question, answer)
    else:
        resolving.answered(question, answer)


async def _ask(question: Question) -> list[bytes] | str:
    import dns.asyncresolver
    import dns.exception
    import dns.rdatatype
    import dns.resolver

    try:
        resolver = dns.asyncresolver.Resolver()
        resolver.timeout, resolver.lifetime = TRY, LIFETIME
        return await _records(resolver, question, dns.rdatatype.from_text(question.kind.value))
    except dns.resolver.NXDOMAIN:
        return "there is no such name"
    except dns.resolver.LifetimeTimeout:
        return f"no answer in {LIFETIME:g} s"
    except dns.resolver.NoNameservers:
        return "the name servers cannot answer"
    except (dns.exception.DNSException, OSError, ValueError) as error:  # ValueError: a name that IDNA cannot encode
        return str(error)


async def _records(resolver: DnsResolver, question: Question, kind: RdataType) -> list[bytes]:
    answer = await resolver.resolve(question.name, kind, search=False, raise_on_no_answer=False)
    if question.kind is Kind.TXT:
        return [b"".join(record.strings) for record in answer]
    return [ipaddress.ip_address(record.address).packed for record in answer]
