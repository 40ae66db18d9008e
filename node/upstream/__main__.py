"""`python -m node.upstream [relay]`: results go to stdout, everything else to stderr; exit status 0 is a success."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence

from node import logs
from node.errors import ConfigError, NodeError
from node.upstream.contract import Role, Suite, Task, read

FAILED = 1
BAD_USAGE = 2
TERMINATED = 128 + signal.SIGTERM


def main(arguments: Sequence[str], environment: Mapping[str, str]) -> int:
    """Play a part in a test; returns the exit status."""
    logs.begin(
        sys.stderr, name="upstream", level="debug" if environment.get("DEBUG") == "true" else "info", form="text"
    )
    try:
        task = read(arguments, environment)
        return asyncio.run(_run(task))
    except ConfigError as error:
        sys.stderr.write(f"python -m node.upstream: {error}\n")
        return BAD_USAGE
    except (NodeError, OSError) as error:
        sys.stderr.write(f"python -m node.upstream: {error}\n")
        return FAILED


async def _run(task: Task) -> int:
    playing = asyncio.ensure_future(_play(task))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, playing.cancel)
    try:
        async with asyncio.timeout(task.timeout):
            said = await playing
    except TimeoutError:
        raise NodeError(f"the {task.role.value} was not done within {task.timeout:g} s") from None
    except asyncio.CancelledError:
        return TERMINATED
    if said is None:
        return FAILED
    sys.stdout.write(f"{said}\n")
    return 0


async def _play(task: Task) -> str | None:
    """The result of a dialer. Who listens or relays stays until it is ended."""
    # Redis' client takes longer to load than the node.
    from node.upstream import holepunch, transport
    from node.upstream.board import Board

    punching = task.suite in (Suite.HOLE_PUNCH, Suite.HOLE_PUNCH_INTEROP)
    part = holepunch if punching else transport
    async with Board.open(*task.redis) as board:
        match task.role:
            case Role.DIALER:
                said: str = await part.dial(task, board)
                return said
            case Role.LISTENER:
                await part.listen(task, board)
            case Role.RELAY:
                await holepunch.relay(task, board)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
