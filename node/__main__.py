"""`python -m node`: a node, run by JSON lines on stdin and stdout; logs go to stderr."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

from node import logs
from node.config import parse
from node.control import run
from node.errors import ConfigError

BAD_USAGE = 2


def main(arguments: Sequence[str]) -> int:
    """Run a node and return its exit status."""
    try:
        config = parse(arguments)
        logs.begin(sys.stderr, name=config.name, level=config.log_level, form=config.log_format)
        asyncio.run(run(config.host))
    except ConfigError as error:
        sys.stderr.write(f"python -m node: {error}\n")
        return BAD_USAGE
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
