"""The containers of one lab: each peer's network held by one, each peer run in another.

The *holder* starts with `--network none` and does nothing. Its network namespace is the peer's space, into which cables
are laid as into every other. When all of that stands, the peer's own container joins it. So a program never starts
before its network is there, may be killed and started again in it, and may come from any image, even without a shell.

Facts:

* The engine makes namespaces that belong to the host's user namespace, so only real root lays cables into them: a lab
  with containers runs in a sandbox that has no user namespace of its own.
* The holder runs `cat` on a stdin that ends with the one connection to it (StdinOnce). When the lab ends, however it
  ends, the holders do too, and remove themselves. Peers' stdin ends as well, and with it each peer that keeps to the
  contract. `Engine.reap` is for what is left.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Awaitable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lab.errors import Inconclusive, KernelError
from lab.kernel.attach import Attached
from lab.kernel.container import ANSWER_WITHIN, TOKEN, Engine
from lab.kernel.namespace import Namespace

HOLDER_IMAGE: Final = "punchlab/node"
"It has `cat`."
STATE: Final = "/state"
"where a peer's own folder is"
MAX_PROCESSES: Final = 512
"of one peer, threads included"
_NO_IPV6: Final = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
"The engine switches IPv6 off where no network of its own has it; for every interface that there is and will be."
_LOCKED: Final[Mapping[str, Any]] = {"cap_drop": ["ALL"], "security_opt": ["no-new-privileges"]}
_ROUTING: Final[Mapping[str, Any]] = {"init": True, "cap_add": ["NET_ADMIN"], "security_opt": ["no-new-privileges"]}
"As compose starts programs of upstream's suites, which add routes to their own network."


class Program:
    """A peer's container, to be used as an `asyncio.subprocess.Process`."""

    def __init__(self, engine: Engine, container: str, pid: int, attached: Attached) -> None:
        self.pid = pid
        "as the host numbers it"
        self.stdin: asyncio.StreamWriter | None = attached.stdin
        self.stdout: asyncio.StreamReader | None = attached.stdout
        self.returncode: int | None = None
        self._engine = engine
        self._container = container
        self._attached = attached
        self._killing: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[int] | None = None

    def kill(self) -> None:
        """Have it end at once."""
        if self._killing is None:
            self._killing = asyncio.create_task(self._kill())

    async def wait(self) -> int:
        """Its exit status when it has ended, -n for signal n; the container is gone then."""
        if self._ending is None:
            self._ending = asyncio.create_task(self._end())
        return await asyncio.shield(self._ending)

    async def terminate(self, grace: float) -> int:
        """Have it end: SIGTERM, after `grace` seconds SIGKILL. Returns its exit status."""
        if self.returncode is None and self._killing is None:
            await asyncio.to_thread(self._engine.kill, self._container, signal.SIGTERM)
            try:
                async with asyncio.timeout(grace):
                    return await self.wait()
            except TimeoutError:
                self.kill()
        return await self.wait()

    async def _kill(self) -> None:
        await asyncio.to_thread(self._engine.kill, self._container)
        await asyncio.to_thread(self._engine.status, self._container)
        if not self._attached.transport.is_reading():
            # Nobody reads what it said, so the end of it would not be seen either.
            self._attached.transport.abort()

    async def _end(self) -> int:
        await self._attached.ended
        if self._killing is not None:
            await self._killing
        self.returncode = await asyncio.to_thread(self._engine.status, self._container)
        await asyncio.to_thread(self._engine.remove, self._container)
        return self.returncode


class Pods:
    """What the containers of a lab share. Made by `hold`, ended by `close`."""

    def __init__(self, engine: Engine, run: str) -> None:
        self.spaces: dict[str, Namespace] = {}
        "The held networks, by space."
        self._engine = engine
        self._run = run
        self._holders: dict[str, tuple[str, socket.socket]] = {}
        self._programs: list[str] = []

    async def hold(self, spaces: Sequence[str], name_servers: Sequence[str], names: Mapping[str, str]) -> None:
        """Make a network for each of these spaces, with nothing in it. Raises KernelError.

        `names` are addresses by what programs in it may call them.
        """
        await _all(asyncio.to_thread(self._hold, space, name_servers, names) for space in spaces)

    def _hold(self, space: str, name_servers: Sequence[str], names: Mapping[str, str]) -> None:
        token = secrets.token_hex(16)
        host = {"network_mode": "none", "auto_remove": True, "dns": list(name_servers), **_LOCKED}
        host["extra_hosts"] = dict(names)
        container = self._engine.create(
            HOLDER_IMAGE, self._run, host, entrypoint=["cat"], hostname=space, environment={TOKEN: token}
        )
        connection = self._engine.attach(container)
        self._holders[space] = container, connection
        self._engine.start(container)
        _await_echo(space, connection)
        held = self.spaces[space] = self._engine.network_of(container, token, space)
        with held.entered():
            if _NO_IPV6.exists():
                _NO_IPV6.write_text("0")

    async def run(
        self, space: str, image: str, arguments: Sequence[str], home: Path, stderr_path: Path, *, limit: int
    ) -> Program:
        """Start a container in a held network; `home` is its `/state`, stderr is appended to a file.

        Raises PeerUnsupported without the image, Inconclusive where its program cannot be started.
        """
        container = await asyncio.to_thread(
            self._create, space, image, home, _LOCKED, command=list(arguments), working_dir=STATE
        )
        return await self._start(space, image, container, stderr_path, limit)

    async def run_stranger(
        self,
        space: str,
        image: str,
        command: Sequence[str] | None,
        environment: Mapping[str, str],
        home: Path,
        stderr_path: Path,
        *,
        limit: int,
    ) -> Program:
        """Start a container of a program that keeps to contracts of its own, otherwise as `run`.

        `environment` is added to the image's, `command` stands for its own if there is one.
        """
        more = {"environment": dict(environment), **({} if command is None else {"command": list(command)})}
        container = await asyncio.to_thread(self._create, space, image, home, _ROUTING, **more)
        return await self._start(space, image, container, stderr_path, limit)

    async def _start(self, space: str, image: str, container: str, stderr_path: Path, limit: int) -> Program:
        self._programs.append(container)
        connection = await asyncio.to_thread(self._engine.attach, container)
        attached = await Attached.over(connection, stderr_path.open("ab", buffering=0), limit)
        try:
            await asyncio.to_thread(self._engine.start, container)
            pid = await asyncio.to_thread(self._engine.pid, container)
        except KernelError as error:
            attached.transport.abort()
            raise Inconclusive(f"{space}: the image {image} does not start: {error}") from error
        return Program(self._engine, container, pid, attached)

    def _create(self, space: str, image: str, home: Path, rights: Mapping[str, Any], **more: Any) -> str:
        os.chown(home, *self._engine.user_of(image))
        host = {
            "network_mode": f"container:{self._holders[space][0]}",
            "binds": {str(home.resolve()): {"bind": STATE, "mode": "z"}},
            "pids_limit": MAX_PROCESSES,
            **rights,
        }
        return self._engine.create(image, self._run, host, **more)

    async def close(self) -> None:
        """Remove every container, whatever it does."""
        for _, connection in self._holders.values():
            connection.close()
        for space in self.spaces.values():
            space.close()
        containers = [*self._programs, *(container for container, _ in self._holders.values())]
        await _all(asyncio.to_thread(self._engine.remove, container) for container in containers)


def _await_echo(space: str, connection: socket.socket) -> None:
    """Wait until `cat` runs: before, the process is the engine's own, on its way there. Raises KernelError."""
    connection.settimeout(ANSWER_WITHIN)
    try:
        connection.sendall(b"\n")
        if connection.recv(16):
            return
    except OSError as error:
        raise KernelError(f"{space}: what holds its network does not run: {error}") from error
    raise KernelError(f"{space}: what holds its network has ended")


async def _all(work: Iterable[Awaitable[None]]) -> None:
    """Await all of it, whatever fails; then raise the first failure."""
    failures = [one for one in await asyncio.gather(*work, return_exceptions=True) if one is not None]
    if failures:
        raise failures[0]
