"""Sockets that a NAT is probed with: tokens go out at one end, and the probe notes where each arrives and from whom.

    end.send(address) → token      …  NAT  …      probe.arrival(token) → Arrival(end, source)

UDP (here), TCP (`lab.run.tcp_probe`) and ICMP queries (`lab.run.icmp_probe`) have the same face, so that every test is
written once.

A token that arrives proves a path. One that does not arrive proves nothing until another, sent after it on the same
path, has arrived: `Probe.settle` waits for such, and not for a time.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, Self

from lab.errors import LabError
from lab.observe.endpoint import endpoint_text
from lab.observe.nat import Address
from lab.run.versions import V4, Space, Version

DEADLINE: Final = 4.0
"Seconds for a token that must arrive. A SYN whose freshly drawn port had an owner is lost, and comes again after 1 s."
RESEND: Final = 0.1
"Seconds after which a datagram that must arrive is sent again."
QUIET: Final = 0.04
"Seconds for stragglers once the controls have arrived: two CPUs may take packets in another order than they were sent."
MAX_ENDS: Final = 64
"Endpoints of one probe; a NAT is measured with a dozen."
MAX_TOKENS: Final = 4096
"Tokens that one probe sends."
TOKEN: Final = 8
"Bytes of a token."
COPY: Final = 0.02
"Seconds for a program that is being started to let go of its copy of a socket."
MAX_CPUS: Final = 128
"CPUs that a control is sent from, so that all controls of a probe are within MAX_TOKENS."
PORT_TRIALS: Final = 16
"Free ports that are tried for one end."


class ProbeError(LabError):
    """A probe could not measure: a control did not arrive, or a socket could not be had."""


class End(ABC):
    """One endpoint: a local address that sends tokens and hears them."""

    address: Address

    @abstractmethod
    def send(self, to: Address) -> bytes:
        """Send a fresh token at once and return it. Raises `ProbeError` where the network cannot even be tried."""

    @abstractmethod
    def again(self, token: bytes, to: Address) -> None:
        """Send a token anew that may have been lost on its way."""

    def hang_up(self, to: Address) -> None:  # noqa: B027 -- only connections have an end
        """End the connection with an address, if there is such a thing."""

    @abstractmethod
    def close(self) -> None:
        """Leave nothing behind."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """Where a token came out, and from whom as it seemed there."""

    end: End
    source: Address


class Probe(ABC):
    """One protocol's ends, and what became of the tokens between them. `async with` closes all of them."""

    protocol: str
    kind: socket.SocketKind

    def __init__(self, version: Version = V4) -> None:
        self.version = version
        self._ends: list[End] = []
        self._ports: set[int] = set()
        self._sent: dict[bytes, tuple[End, Address]] = {}
        self._arrivals: dict[bytes, Arrival] = {}
        self._refused: set[bytes] = set()
        self._unreachable: set[bytes] = set()
        self._news = asyncio.Event()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for end in self._ends:
            end.close()

    def end(self, space: Space, address: str | None = None, port: int = 0) -> End:
        """Open an endpoint in a namespace; port 0 is one that no other end of this probe has. Raises `ProbeError`.

        Without an address it is the one that the namespace's routes choose.
        """
        address = self.version.anywhere if address is None else address
        if len(self._ends) >= MAX_ENDS:
            raise ProbeError(f"more than {MAX_ENDS} {self.protocol} sockets for one NAT")
        try:
            end = self._open(space, (address, port)) if port else self._open_anywhere(space, address)
        except OSError as error:
            raise ProbeError(f"no {self.protocol} socket in {space.name}: {error.strerror}") from error
        self._ends.append(end)
        return end

    async def end_again(self, space: Space, address: str | None = None, port: int = 0) -> End:
        """Open an endpoint on a port that an end had which is closed by now. Raises `ProbeError`."""
        for _ in range(PORT_TRIALS):
            try:
                return self.end(space, address, port)
            except ProbeError as error:
                if not isinstance(error.__cause__, OSError) or error.__cause__.errno != errno.EADDRINUSE:
                    raise
            await asyncio.sleep(COPY)
        raise ProbeError(f"{self.protocol} port {port} in {space.name} is not free again")

    def arrival(self, token: bytes) -> Arrival | None:
        """Where a token came out; None if nowhere so far."""
        return self._arrivals.get(token)

    def sources(self) -> frozenset[int]:
        """The ports that tokens have come from so far, as they seemed where they came out."""
        return frozenset(arrival.source[1] for arrival in self._arrivals.values())

    def refused(self, token: bytes) -> bool:
        """Whether the connection that was to carry a token was refused."""
        return token in self._refused

    def unreachable(self, token: bytes) -> bool:
        """Whether an ICMP error came back for a token."""
        return token in self._unreachable

    def watch(self, space: Space) -> None:  # noqa: B027 -- a choice, not a duty
        """Note in a host's namespace whatever `attempted` is to tell; nothing where packets arrive or do not."""

    def attempted(self, receiver: End, sender: End, besides: Iterable[str]) -> Address | None:
        """The source of a packet that came from one end to another and could not become an arrival.

        `besides` are addresses that do not count as the sender's own.
        """
        return None

    async def delivered(self, tokens: Iterable[bytes], within: float = DEADLINE) -> list[Arrival]:
        """Wait for tokens that must arrive and tell how they did. Raises `ProbeError` naming those that did not."""
        wanted = list(tokens)
        try:
            async with asyncio.timeout(within):
                while missing := [token for token in wanted if token not in self._arrivals]:
                    await self._hear_or_resend(missing)
        except TimeoutError:
            raise ProbeError(self._complaint(wanted, within)) from None
        return [self._arrivals[token] for token in wanted]

    async def settle(self, *ways: tuple[End, Address]) -> None:
        """Wait until all that was sent on these ways has arrived or never will: controls follow it, one by one.

        A packet waits in the queue of the CPU that sent it, and on a busy machine one queue may be far behind another:
        a control follows in each.
        """
        for end, to in ways:
            await self.delivered(_from_every_cpu(end, to))
        await asyncio.sleep(QUIET)

    @abstractmethod
    def _open(self, space: Space, address: Address) -> End: ...

    def _open_anywhere(self, space: Space, address: str) -> End:
        """Open on a free port; on another if that one is taken after all.

        A program that is being started holds copies of all our sockets until it executes, the closed one that found the
        free port among them.
        """
        for _ in range(PORT_TRIALS):
            try:
                return self._open(space, (address, self._free_port(space, address)))
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
        raise ProbeError(f"no free {self.protocol} port in {space.name} after {PORT_TRIALS} trials")

    def _free_port(self, space: Space, address: str) -> int:
        """The kernel's choice: other probes share the vantages, and one host's ports shall not be another's."""
        while True:
            with self.version.new_socket(space, self.kind) as trial:
                trial.bind((address, 0))
                port = int(trial.getsockname()[1])
            if port not in self._ports:
                self._ports.add(port)
                return port

    async def _hear_or_resend(self, missing: list[bytes]) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(RESEND):
                await self._news.wait()
        except TimeoutError:
            for token in missing:
                end, to = self._sent[token]
                end.again(token, to)

    def _complaint(self, wanted: list[bytes], within: float) -> str:
        lost = [self._sent[token] for token in wanted if token not in self._arrivals]
        ways = ", ".join(f"{endpoint_text(*end.address)} → {endpoint_text(*to)}" for end, to in lost)
        return f"{self.protocol} {ways} did not arrive within {within:g} s"

    # What ends tell their probe.

    def sending(self, end: End, to: Address) -> bytes:
        """A fresh token from an end."""
        if len(self._sent) >= MAX_TOKENS:
            raise ProbeError(f"more than {MAX_TOKENS} {self.protocol} tokens for one NAT")
        token = secrets.token_bytes(TOKEN)
        self._sent[token] = (end, to)
        return token

    def heard(self, end: End, token: bytes, source: Address) -> None:
        """An end has received something; what nobody sent is not ours."""
        if token in self._sent:
            self._arrivals.setdefault(token, Arrival(end, source))
            self._news.set()

    def refuse(self, tokens: Iterable[bytes]) -> None:
        """The connection that was to carry these tokens was refused."""
        self._refused.update(tokens)
        self._news.set()

    def undeliverable(self, tokens: Iterable[bytes]) -> None:
        """An ICMP error has come back for these tokens."""
        self._unreachable.update(tokens)
        self._news.set()


class UdpProbe(Probe):
    """Tokens as datagrams."""

    protocol = "UDP"
    kind = socket.SOCK_DGRAM

    def _open(self, space: Space, address: Address) -> End:
        return _UdpEnd(self, space, address)


class _UdpEnd(End):
    def __init__(self, probe: UdpProbe, space: Space, address: Address) -> None:
        self._probe = probe
        self.address = address
        self._socket = probe.version.new_socket(space, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        probe.version.keep_errors(self._socket)
        bind(self._socket, address)
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def send(self, to: Address) -> bytes:
        token = self._probe.sending(self, to)
        self.again(token, to)
        return token

    def again(self, token: bytes, to: Address) -> None:
        try:
            try:
                self._socket.sendto(token, to)
            except ConnectionRefusedError:
                # The error of an earlier token, told to whoever uses the socket next.
                self._probe.undeliverable(errors(self._socket))
                self._socket.sendto(token, to)
        except OSError as error:
            raise ProbeError(f"UDP to {endpoint_text(*to)}: {error.strerror}") from error

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _receive(self) -> None:
        try:
            while True:
                data, source = self._socket.recvfrom(TOKEN + 1)
                self._probe.heard(self, data, source)
        except BlockingIOError:
            self._probe.undeliverable(errors(self._socket))
        except ConnectionRefusedError:
            self._probe.undeliverable(errors(self._socket))


def _from_every_cpu(end: End, to: Address) -> list[bytes]:
    """Send a token from each CPU that this thread may run on, the first MAX_CPUS of them."""
    allowed = os.sched_getaffinity(0)
    tokens = []
    try:
        for cpu in sorted(allowed)[:MAX_CPUS]:
            os.sched_setaffinity(0, {cpu})
            tokens.append(end.send(to))
    finally:
        os.sched_setaffinity(0, allowed)
    return tokens


def errors(its: socket.socket) -> list[bytes]:
    """What ICMP errors came back for, as much of it as they quote; takes them off the socket."""
    quoted: list[bytes] = []
    while len(quoted) < MAX_TOKENS:
        try:
            quoted.append(its.recvmsg(TOKEN, 512, socket.MSG_ERRQUEUE)[0])
        except BlockingIOError:
            break
    return quoted


def bind(fresh: socket.socket, address: Address) -> None:
    """Bind a socket, or close it and raise OSError."""
    try:
        fresh.bind(address)
    except OSError:
        fresh.close()
        raise
