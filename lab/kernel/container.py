"""Docker's engine, as it is seen from inside a sandbox. The only module with docker.

The sandbox has its own /run and its own PIDs. So the engine's socket and the host's /proc are opened before it is made
(`Engine.find`), and reached by their descriptors from then on. What a lab's containers are for says `lab.kernel.pods`.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from lab.errors import KernelError, MissingCapability, PeerUnsupported
from lab.kernel import sandbox
from lab.kernel.namespace import Namespace

if TYPE_CHECKING:
    from docker import APIClient

RUN: Final = "punchlab.run"
PID: Final = "punchlab.pid"
BORN: Final = "punchlab.born"
"Labels of every container: the run, the lab's process, and which of all processes of that number it is."
TOKEN: Final = "PUNCHLAB_TOKEN"  # noqa: S105 - no secret
"the environment variable by which a container's process is known to be of this machine"
OLDEST_API: Final = (1, 41)
OLDEST: Final = "20.10"
"the Docker that brought it"
DEFAULT_HOST: Final = "unix:///var/run/docker.sock"
FOUND_WITHIN: Final = 10.0
"Seconds for the first answer of all; an engine that hangs shall not hang us."
ANSWER_WITHIN: Final = 60.0
"Seconds for one request to the engine; a container starts in 0.5, on a loaded machine in 10."

_INSTALL = "install it (sudo apt install docker.io), or run every peer as a process"
_BY_SIGNAL = 128
_GONE, _BUSY = 404, 409


class Engine:
    """Docker's engine on this machine. Made by `find`, before the sandbox. All its methods block.

    Where the engine refuses, they raise KernelError; where it has gone, MissingCapability.
    """

    def __init__(self, door: int, machine: str, proc: int) -> None:
        self.version = ""
        self._door = door
        self._address = f"unix:///proc/self/fd/{door}"
        self._machine = machine
        self._proc = proc
        self._client: APIClient | None = None
        self._within = FOUND_WITHIN

    @classmethod
    def find(cls) -> Engine:
        """The engine that `DOCKER_HOST` names, or this machine's own. Raises MissingCapability with what to do."""
        host = os.environ.get("DOCKER_HOST") or DEFAULT_HOST
        if not host.startswith("unix://"):
            raise MissingCapability(f"DOCKER_HOST={host} is not this machine's engine, which the lab needs; unset it")
        path = host.removeprefix("unix://")
        try:
            # Only a name is opened here: whether we may connect is found out by doing it.
            door = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MissingCapability(f"no Docker engine runs here ({path} does not exist); {_INSTALL}") from None
        except OSError as error:
            raise MissingCapability(f"Docker's engine cannot be reached at {path}: {error.strerror}") from error
        proc = os.open("/proc", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        engine = cls(door, _machine(), proc)
        try:
            engine._check()
        except BaseException:
            engine.close()
            raise
        return engine

    def close(self) -> None:
        """Let go of the engine and of the host's /proc."""
        self._hang_up()
        os.close(self._door)
        os.close(self._proc)

    def _check(self) -> None:
        with self._asking("its version") as client:
            told: dict[str, Any] = client.version(api_version=False)
        self.version = str(told.get("Version", "?"))
        api = tuple(int(part) for part in str(told.get("ApiVersion", "0.0")).split("."))
        if api < OLDEST_API:
            raise MissingCapability(f"Docker {self.version} is too old; install {OLDEST} or newer")
        self._hang_up()
        self._within = ANSWER_WITHIN

    def require_rights(self) -> None:
        """Raises MissingCapability where cables cannot be laid to containers."""
        if os.geteuid() != 0:
            raise MissingCapability(
                "peers in containers need root, because their networks are the host's to give: use sudo"
            )

    def require_image(self, name: str) -> None:
        """Raises MissingCapability without an image that every lab with containers needs.

        It may be called before the sandbox is made.
        """
        if self.image_size(name) is None:
            raise MissingCapability(
                f"the image {name} is not here, and no peer runs in a container without; `make images`"
            )
        self._hang_up()

    def image_size(self, name: str) -> int | None:
        """Bytes of an image, None where it is not here."""
        with self._asking(f"for the image {name}") as client:
            found = client.images(name=name)
        return int(found[0]["Size"]) if found else None

    def user_of(self, image: str) -> tuple[int, int]:
        """Whom an image runs its program as, root where it says so by a name. Raises PeerUnsupported without it."""
        uid, _, gid = str(self._image(image)["Config"].get("User") or "0").partition(":")
        gid = gid or uid
        return (int(uid), int(gid)) if uid.isdigit() and gid.isdigit() else (0, 0)

    def id_of(self, image: str) -> str:
        """The digest that names an image, whatever it is called. Raises PeerUnsupported without it."""
        return str(self._image(image)["Id"])

    def _image(self, name: str) -> dict[str, Any]:
        told: dict[str, Any] = {}
        with self._asking(f"for the image {name}", _GONE) as client:  # by a name or an id
            told = client.inspect_image(name)
        if not told:
            raise PeerUnsupported(f"the image {name} is not here; `make images` builds the project's own")
        return told

    def create(self, image: str, run: str, host: Mapping[str, Any], **more: Any) -> str:
        """Make a container with an open stdin, that belongs to this lab; returns its id."""
        pid = sandbox.host_pid()
        labels = {RUN: run, PID: str(pid), BORN: f"{self._machine}/{self._started(pid)}"}
        with self._asking(f"for a container of {image}") as client:
            # What it says goes to the lab alone; the engine keeps no copy of it.
            settings = client.create_host_config(log_config={"type": "none"}, **host)
            made = client.create_container(image, stdin_open=True, labels=labels, host_config=settings, **more)
        return str(made["Id"])

    def attach(self, container: str) -> socket.socket:
        """A connection to a container's stdin, stdout and stderr."""
        with self._asking("to attach to a container") as client:
            streams = {"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}
            # Let go of, it is closed whenever the next thread collects garbage: only when its descriptor is ours, too.
            stream = client.attach_socket(container, streams)
            return socket.socket(fileno=os.dup(stream.fileno()))

    def start(self, container: str) -> None:
        """Start a container."""
        with self._asking("to start a container") as client:
            client.start(container)

    def pid(self, container: str) -> int:
        """The first process of a container, as the host numbers it; 0 if it has ended."""
        with self._asking("about a container") as client:
            return int(client.inspect_container(container)["State"]["Pid"])

    def network_of(self, container: str, token: str, name: str) -> Namespace:
        """The network namespace of a running container that has that token in its environment."""
        pid = self.pid(container)
        try:
            if f"{TOKEN}={token}".encode() not in self._read(f"{pid}/environ").split(b"\0"):
                raise KernelError(f"{name}: the engine's containers are not processes of this machine")
            return Namespace.of(name, os.open(f"{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc))
        except OSError as error:
            raise KernelError(f"{name}: the network of its container cannot be entered: {error.strerror}") from error

    def kill(self, container: str, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a container's program a signal; nothing happens if it has ended."""
        with self._asking("to kill a container", _GONE, _BUSY) as client:
            client.kill(container, number)

    def status(self, container: str) -> int:
        """How a container ended that has, or is about to: its exit status, or -n by signal n, as of a process."""
        with self._asking("how a container ended") as client:
            code = int(client.wait(container, timeout=ANSWER_WITHIN)["StatusCode"])
        return code if code <= _BY_SIGNAL else _BY_SIGNAL - code

    def remove(self, container: str) -> None:
        """Remove a container, whatever it does; nothing happens if it has gone or is going. It is tried twice."""
        for last in (False, True):
            try:
                with self._asking("to remove a container", _GONE, _BUSY) as client:
                    client.remove_container(container, force=True, v=True)
                return
            except KernelError:
                # Podman does not remove what is ending at this moment, but right after.
                if last:
                    raise

    def reap(self) -> tuple[int, int]:
        """Remove the containers of labs that have ended: how many, and how many are left to living labs.

        It may be called before the sandbox is made.
        """
        with self._asking("for its containers") as client:
            ours = client.containers(all=True, filters={"label": [BORN]})
        orphans = [one for one in ours if self._is_orphan(one["Labels"], one["State"])]
        for one in orphans:
            self.remove(one["Id"])
        self._hang_up()
        return len(orphans), len(ours) - len(orphans)

    def _is_orphan(self, labels: Mapping[str, str], state: str) -> bool:
        machine, _, started = labels[BORN].rpartition("/")
        if machine == self._machine:
            return self._started(int(labels[PID])) != started
        # Of another PID namespace on the same engine, whose processes nobody can see here; or from before a restart,
        # which nothing survives.
        boot = self._machine.partition("/")[0]
        return machine.partition("/")[0] != boot and state != "running"

    def _started(self, pid: int) -> str:
        """When a process of the host was started, in the kernel's ticks; empty if it has ended."""
        try:
            fields = self._read(f"{pid}/stat").rpartition(b")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            return ""
        return "" if fields[0] in (b"Z", b"X") else fields[19].decode()

    def _read(self, path: str) -> bytes:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._proc), "rb") as file:
            return file.read()

    @contextmanager
    def _asking(self, what: str, *content: int) -> Iterator[APIClient]:
        """The client, with the engine's refusals as lines for people but those that leave us content."""
        import docker
        import docker.errors
        import requests

        try:
            if self._client is None:
                self._client = docker.APIClient(base_url=self._address, version="auto", timeout=int(self._within))
            yield self._client
        except docker.errors.APIError as error:
            if error.status_code not in content:
                line = str(error.explanation or error).strip().partition("\n")[0]
                raise KernelError(f"Docker's engine was asked {what} and said: {line}") from error
        except (docker.errors.DockerException, requests.RequestException) as error:
            raise MissingCapability(_unreachable(error, self._within)) from error

    def _hang_up(self) -> None:
        """Connections are not for two processes, and the sandbox is another one."""
        if self._client is not None:
            self._client.close()
            self._client = None


def _machine() -> str:
    """What tells this system's PIDs, until it is started again, from all others."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"


def _unreachable(error: Exception, within: float) -> str:
    causes: list[BaseException] = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None and len(causes) < 10:
        causes.append(cause)
    if any(isinstance(cause, PermissionError) for cause in causes):
        return "Docker's engine does not let this user in; use sudo, or join its group: sudo usermod -aG docker $USER"
    if any(isinstance(cause, ConnectionRefusedError) for cause in causes):
        return f"no Docker engine runs here (nobody answers at its socket); {_INSTALL}"
    if any(isinstance(cause, TimeoutError) for cause in causes):
        return f"Docker's engine did not answer within {within:.0f} s"
    return f"Docker's engine cannot be used: {str(error).partition(chr(10))[0]}"
