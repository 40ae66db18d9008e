"""Events from a shell: `punchlab event home-a reboot` asks the lab that `punchlab up` keeps running.

They meet at a Unix socket in the folder of the run, which exists as long as the lab does and belongs to its owner. One
line each way, JSON:

    {"target": "home-a", "what": "address 11.0.9.2"}
    {"did": "home-a address 11.0.9.2: was 11.0.1.2 (41 ms)"}    {"mistake": "no event …"}    {"failed": "home-a …"}
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, Final

from lab.errors import EventError, Inconclusive, LabError
from lab.lab import Lab

SOCKET: Final = "lab.sock"
"Its name in the folder of the run."
MAX_LINE: Final = 1 << 16
"Bytes of a question or an answer."
ASK_WITHIN: Final = 10.0
"Seconds that whoever connects has to ask."
ANSWER_WITHIN: Final = 60.0
"Seconds for an event; the longest is a peer's start."


@asynccontextmanager
async def listening(lab: Lab, run: Path) -> AsyncIterator[None]:
    """Take events for a lab for as long as the block lasts. Raises `LabError` if the socket cannot be made."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(ASK_WITHIN):
                question = await reader.readline()
            writer.write(json.dumps(await _answer(lab, question), ensure_ascii=False).encode() + b"\n")
            async with asyncio.timeout(ASK_WITHIN):
                await writer.drain()
        except (TimeoutError, ValueError, ConnectionError):
            # It asked nothing, too much, or has gone; the event, if there was one, is on the timeline.
            writer.transport.abort()
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, sock=_bound(run), limit=MAX_LINE)
    try:
        async with server:
            yield
    finally:
        (run / SOCKET).unlink(missing_ok=True)


def ask(run: Path, target: str, what: str) -> str:
    """Have something happen in the lab of that run; returns what did.

    Raises `EventError` where it makes no sense, `Inconclusive` where it failed, `LabError` where nobody listens.
    """
    question = json.dumps({"target": target, "what": what}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking, _short(run) as path:
            asking.settimeout(ANSWER_WITHIN)
            asking.connect(path)
            asking.sendall(question)
            with asking.makefile("rb") as answers:
                answer = json.loads(answers.readline(MAX_LINE) or b"{}")
    except TimeoutError:
        raise LabError(f"{run.name} did not answer within {ANSWER_WITHIN:g} s") from None
    except (FileNotFoundError, ConnectionRefusedError):
        raise LabError(f"{run.name} is not running; start one with `punchlab up`") from None
    except (OSError, ValueError) as error:
        raise LabError(f"{run.name}: {error}") from error
    return _understood(run, answer)


def _understood(run: Path, answer: Any) -> str:
    match answer:
        case {"did": str() as text}:
            return text
        case {"mistake": str() as text}:
            raise EventError(text)
        case {"failed": str() as text}:
            raise Inconclusive(text)
        case _:
            raise LabError(f"{run.name} ended before it had answered")


async def _answer(lab: Lab, question: bytes) -> dict[str, str]:
    try:
        asked = json.loads(question)
    except (ValueError, RecursionError):
        asked = None
    match asked:
        case {"target": str() as target, "what": str() as what}:
            pass
        case _:
            return {"mistake": "an event is asked for by a target and what shall happen to it"}
    try:
        return {"did": str(await lab.event(target, what))}
    except EventError as error:
        return {"mistake": str(error)}
    except Inconclusive as error:
        return {"failed": str(error)}


def _bound(run: Path) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The mode of the file that bind makes: nobody but the owner connects.
        os.fchmod(made.fileno(), 0o600)
        with _short(run) as path:
            made.bind(path)
    except OSError as error:
        made.close()
        raise LabError(f"{run / SOCKET}: {error.strerror}") from error
    return made


@contextmanager
def _short(run: Path) -> Iterator[str]:
    """A path to the socket that fits into the 107 bytes of sockaddr_un(7), however deep the folder is."""
    folder = os.open(run, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{SOCKET}"
    finally:
        os.close(folder)
