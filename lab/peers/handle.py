"""A peer as a scenario sees it: ask it to do things, and look at what it says has happened.

`saw` looks at past and future events alike, so acting and waiting cannot race. A peer that has ended fails every
question still open with the tail of its stderr.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from lab.errors import LabError, PeerError, PeerUnsupported
from lab.files import keep_tail
from lab.model.transport import TRANSPORTS
from lab.peers.answers import Dialled, Echoed, Finding, Info, Nat, Pinged, Profile, Reserved
from lab.peers.contract import MAX_LINE, Answer, Event, Nonsense, Refusal, Unsupported, command, parse
from lab.plan.plan import Launch

MAX_EVENTS = 100_000
"Events kept of one peer; one that says more is talking nonsense."
MAX_SPOKEN = 256 << 20
"Bytes of stdout in all; likewise."
MAX_STDERR = 16 << 20
"Bytes of stderr that the run keeps of one peer, the last ones, and what is written between two looks."
KEPT_STDERR = 8 << 20
"Of these, what stays when there are more."
LOOK_EVERY = 1.0
"Seconds between two looks at its size."
TAIL_LINES = 12
"Lines of stderr that an error quotes."
MAX_TAIL = 64 * 1024
"Bytes of stderr in which they are looked for."
BAD_USAGE = 2
"Exit status of a peer that does not have what a flag asks for; a panic of go has the same."
_A_FLAG = re.compile(r"(?<![\w/])--?[a-z]")
GRACE = 3.0
"Seconds that a peer has to stop before it is killed."

Where = Callable[..., bool]


class Running(Protocol):
    """A peer's program, a process or a container: `lab.kernel.process.Child`, `lab.kernel.pods.Program`."""

    @property
    def stdin(self) -> asyncio.StreamWriter | None: ...
    @property
    def stdout(self) -> asyncio.StreamReader | None: ...
    @property
    def returncode(self) -> int | None: ...
    @property
    def pid(self) -> int: ...
    def kill(self) -> None: ...
    async def wait(self) -> int: ...


def tail_of(stderr: Path) -> str:
    """The last lines of a file, as the end of an error message; empty if there are none."""
    if not stderr.exists():
        return ""
    with stderr.open("rb") as file:
        file.seek(max(0, stderr.stat().st_size - MAX_TAIL))
        lines = file.read(MAX_TAIL).decode("utf-8", "replace").splitlines()[-TAIL_LINES:]
    return f"; its stderr ends: {' | '.join(lines)}" if lines else ""


async def keep_bounded(stderr: Path) -> None:
    """Have a program's stderr stay within its bound, until this is cancelled. Raises OSError."""
    while True:
        await asyncio.sleep(LOOK_EVERY)
        keep_tail(stderr, MAX_STDERR, KEPT_STDERR)


class _UnusableError(ValueError):
    """A peer says what nobody can use."""


class Peer:
    """One running peer. Made by `start`, ended by `stop`."""

    def __init__(
        self,
        launch: Launch,
        process: Running,
        stderr: Path,
        on_line: Callable[[str, bytes], None],
        on_event: Callable[[Event], None],
    ) -> None:
        self.name = launch.peer
        self.launch = launch
        self.events: list[Event] = []
        self.nonsense: list[Nonsense] = []
        self.identity: Info | None = None
        self._process = process
        self._stderr = stderr
        self._on_line = on_line
        self._on_event = on_event
        self._ids = itertools.count(1)
        self._open: dict[int, asyncio.Future[Answer | Refusal | Unsupported]] = {}
        self._news = asyncio.Condition()
        self._ended: str | None = None
        self._life = asyncio.create_task(self._live(), name=f"the life of {self.name}")
        self._keeper = asyncio.create_task(keep_bounded(stderr), name=f"stderr of {self.name}")

    def __repr__(self) -> str:
        return f"<Peer {self.name} {self.launch.impl} in {self.launch.space}>"

    @property
    def pid(self) -> int:
        """The process, as numbered in the lab's own PID namespace; that of a container, as the host numbers it."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether its program has not ended."""
        return self._ended is None

    @property
    def peer_id(self) -> str:
        """Its peer id, known once it is ready."""
        return self._who().peer

    @property
    def address(self) -> str:
        """The full address of its listener in its own network, by the first of its transports."""
        return self._address(self.launch.address)

    @property
    def address6(self) -> str:
        """The same by IPv6; LabError if it has none."""
        if self.launch.address6 is None:
            raise LabError(f"{self.name} has no IPv6 address; the topology says which versions there are: ip = …")
        return self._address(self.launch.address6)

    def address_for(self, other: Peer) -> str:
        """The same as another peer can dial it: public, or on a LAN in front of both, if it has such a one."""
        return self._address(self.launch.address_for(other.launch))

    def through(self, relay: Peer) -> str:
        """The address of this peer by a relay's circuit."""
        return f"{relay.address_for(self)}/p2p-circuit/p2p/{self.peer_id}"

    async def ready(self, within: float) -> Info:
        """Wait for its first line and learn who it is.

        Raises `PeerUnsupported` where it ends because it does not have what a flag asks for, `PeerError`.
        """
        try:
            await self.saw("ready", within=within)
        except PeerError:
            if complaint := self._misused():
                raise PeerUnsupported(f"{self.name} does not start so: {complaint}") from None
            raise
        self.identity = Info.of(self.name, await self.ask("info", timeout=within))
        return self.identity

    async def ask(self, do: str, *, timeout: float = 30.0, **arguments: Any) -> dict[str, Any]:
        """Send one command and wait for its answer.

        Raises `PeerUnsupported`, or `PeerError` with the peer's reason, on its silence or on its end.
        """
        id = next(self._ids)
        line = command(id, do, {**arguments, "timeout": timeout})
        answer: asyncio.Future[Answer | Refusal | Unsupported] = asyncio.get_running_loop().create_future()
        if self._ended is not None:
            raise PeerError(self._ended)
        self._open[id] = answer
        try:
            # A little longer than the peer's own deadline, whose reason is the better one.
            async with asyncio.timeout(timeout + 2.0):
                await self._send(line)
                reply = await answer
        except TimeoutError:
            raise PeerError(f"{self.name} did not answer `{do}` within {timeout:g} s{self.tail()}") from None
        finally:
            self._open.pop(id, None)
        if isinstance(reply, Unsupported):
            raise PeerUnsupported(f"{self.name} does not support {reply.what!r} (asked to `{do}`)")
        if isinstance(reply, Refusal):
            raise PeerError(f"{self.name} could not {do}: {reply.error}: {reply.why}")
        return dict(reply.ok)

    async def profile(self, *, timeout: float = 30.0) -> Profile:
        """What it tells whoever identifies it."""
        return Profile.of(self.name, await self.ask("info", timeout=timeout))

    async def dial(self, addr: str, *, timeout: float = 30.0) -> Dialled:
        """Connect to a multiaddr that ends in `/p2p/…`."""
        return Dialled.of(self.name, await self.ask("dial", timeout=timeout, addr=addr))

    async def reserve(self, relay: Peer, *, timeout: float = 30.0) -> Reserved:
        """Take a slot at a relay, so that others reach this peer through it."""
        return Reserved.of(self.name, await self.ask("reserve", timeout=timeout, addr=relay.address_for(self)))

    async def echo(self, peer: Peer, size: int = 32 * 1024, *, timeout: float = 30.0) -> Echoed:
        """Send random bytes by `/echo/1.0.0` over the best connection and compare what comes back."""
        return Echoed.of(self.name, await self.ask("echo", timeout=timeout, peer=peer.peer_id, bytes=size))

    async def ping(self, peer: Peer, *, timeout: float = 30.0) -> Pinged:
        """One round trip over the best connection."""
        return Pinged.of(self.name, await self.ask("ping", timeout=timeout, peer=peer.peer_id))

    async def autonat(self, server: Peer, *addrs: str, timeout: float = 40.0) -> Finding:
        """Have an AutoNAT server test one of these addresses, of all that the peer knows of itself if none is given."""
        asked = {"addrs": list(addrs)} if addrs else {}
        return Finding.of(self.name, await self.ask("autonat", timeout=timeout, peer=server.peer_id, **asked))

    async def nat(self, stun: str | None = None, *, timeout: float = 20.0) -> Nat:
        """What it knows of the NAT in front of it; with the address of a STUN server, `/ip4/…/udp/…`, after asking."""
        return Nat.of(self.name, await self.ask("nat", timeout=timeout, **({} if stun is None else {"addr": stun})))

    async def saw(self, name: str, *, within: float, where: Where | None = None) -> Event:
        """The first event `name`, past or future, for which `where(**fields)` holds."""
        return await self.saw_any((name,), within=within, where=where)

    async def saw_any(self, names: tuple[str, ...], *, within: float, where: Where | None = None) -> Event:
        """As `saw`, of several names."""
        seen = 0
        try:
            async with asyncio.timeout(within), self._news:
                while True:
                    for event in self.events[seen:]:
                        if event.name in names and (where is None or where(**event.fields)):
                            return event
                    seen = len(self.events)
                    if self._ended is not None:
                        raise PeerError(f"{self._ended} before it said {' or '.join(names)}")
                    await self._news.wait()
        except TimeoutError:
            raise PeerError(f"{self.name} said no such {' or '.join(names)} within {within:g} s{self.tail()}") from None

    async def stop(self) -> None:
        """End it: ask, then close its stdin, then kill. Its exit is recorded, never raised."""
        process = self._process
        if process.returncode is None and self._ended is None:
            self._ended = f"{self.name} was stopped"
            try:
                async with asyncio.timeout(GRACE):
                    await self._send(command(next(self._ids), "stop", {}))
                    await process.wait()
            except (TimeoutError, PeerError):
                if process.returncode is None:
                    process.kill()
        await process.wait()
        await self._life

    async def kill(self) -> None:
        """End it as `kill -9` does; every open question fails. Raises `PeerError` if it had ended by itself."""
        if self._ended is None:
            self._ended = f"{self.name} was killed"
            self._process.kill()
        status = await self._process.wait()
        await self._life
        if status != -signal.SIGKILL:
            raise PeerError(f"{self.name} had ended by itself, exit status {status}{self.tail()}")

    def tail(self) -> str:
        """The last lines of its stderr, for an error message; empty if there are none."""
        return tail_of(self._stderr)

    def _misused(self) -> str | None:
        """The last line of a peer that has ended because of a flag, which that line names; None if it has not."""
        if self.running or self._process.returncode != BAD_USAGE or not self._stderr.exists():
            return None
        last = (self._stderr.read_text("utf-8", "replace").splitlines() or [""])[-1]
        return last if _A_FLAG.search(last) else None

    def _address(self, ip: str) -> str:
        tail = TRANSPORTS[self.launch.transports[0]].listen(self.launch.port)
        return f"/ip{6 if ':' in ip else 4}/{ip}{tail}/p2p/{self.peer_id}"

    def _who(self) -> Info:
        if self.identity is None:
            raise PeerError(f"{self.name} is not ready yet")
        return self.identity

    async def _send(self, line: bytes) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        self._on_line(">", line)
        try:
            stdin.write(line)
            await stdin.drain()
        except (BrokenPipeError, ConnectionResetError):
            raise PeerError(self._ended or f"{self.name} no longer reads its stdin{self.tail()}") from None

    async def _live(self) -> None:
        hearing = asyncio.create_task(self._hear(), name=f"hear {self.name}")
        try:
            code = await self._process.wait()
            # Whom it has left behind may hold its stdout for ever.
            await asyncio.wait((hearing,), timeout=GRACE)
        finally:
            self._keeper.cancel()
            hearing.cancel()
        if self._ended is None:
            self._ended = f"{self.name} ended by itself, exit status {code}{self.tail()}"
        await self._end()
        keep_tail(self._stderr, MAX_STDERR, KEPT_STDERR)
        if hearing.done() and not hearing.cancelled():
            hearing.result()

    async def _hear(self) -> None:
        stdout = self._process.stdout
        assert stdout is not None
        spoken = 0
        try:
            while raw := await stdout.readline():
                spoken += len(raw)
                if spoken > MAX_SPOKEN:
                    raise _UnusableError(f"more than {MAX_SPOKEN >> 20} MiB")
                self._on_line("<", raw)
                await self._take(raw)
        except ValueError as error:
            what = str(error) if isinstance(error, _UnusableError) else f"a line of more than {MAX_LINE} bytes"
            self.nonsense.append(Nonsense("", what))
            self._ended = self._ended or f"{self.name} was ended, since it said {what}"
            self._process.kill()
            while await stdout.read(MAX_LINE):  # or its pipe would stay full, and it not be gone
                pass

    async def _take(self, raw: bytes) -> None:
        line = parse(self.name, raw)
        match line:
            case Event():
                await self._tell(line)
            case Nonsense():
                self.nonsense.append(line)
                await self._tell(Event(self.name, "nonsense", time.time(), {"why": line.why, "line": line.line}))
            case _:
                waiting = self._open.get(line.id)
                if waiting is not None and not waiting.done():
                    waiting.set_result(line)

    async def _tell(self, event: Event) -> None:
        if len(self.events) >= MAX_EVENTS:
            raise _UnusableError(f"more than {MAX_EVENTS} events")
        async with self._news:
            self.events.append(event)
            self._news.notify_all()
        self._on_event(event)

    async def _end(self) -> None:
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_exception(PeerError(str(self._ended)))
        async with self._news:
            self._news.notify_all()
