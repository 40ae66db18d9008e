"""The command line of a node.

    python -m node --name alice --role peer --listen /ip4/0.0.0.0/tcp/4001

What is wrong with it is said in one line, and the exit status is 2.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from node.errors import ConfigError, NodeError
from node.host import HostConfig
from node.logic.addresses import Gater, is_tcp
from node.names.keys import KeyType, PrivateKey
from node.names.multiaddr import Multiaddr

DEFAULT_LISTEN = "/ip4/0.0.0.0/tcp/0"
KEPT_KEY = "identity.key"
"""The file in the folder of a node's state."""
MAX_KEY_FILE = 16384
"""Bytes: an RSA key of 8192 bits takes less than 5 KiB."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A node to run: who it is called, how much it logs, and its host."""

    name: str
    log_level: str
    host: HostConfig


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is a ConfigError, so that there is one place that prints it."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(message)


def parse(arguments: Sequence[str]) -> NodeConfig:
    """Return the configuration that the arguments ask for; ConfigError when they cannot be used."""
    options = _parser().parse_args(arguments)
    try:
        listen = tuple(Multiaddr(text) for text in options.listen or [DEFAULT_LISTEN])
    except NodeError as error:
        raise ConfigError(f"--listen: {error}") from error
    for addr in listen:
        if not is_tcp(addr) or addr.peer_id is not None:
            raise ConfigError(f"--listen: {addr} is not /ip4|ip6/…/tcp/…")
    Gater(options.deny, options.allow)
    host = HostConfig(
        key=_key(options.key, options.key_type, options.state),
        listen=listen,
        relay_client=options.relay_client,
        relay_server=options.role == "relay",
        dcutr=options.dcutr,
        punch_attempts=options.punch_attempts,
        punch_timeout=options.punch_timeout,
        deny=tuple(options.deny),
        allow=tuple(options.allow),
    )
    return NodeConfig(options.name, options.log_level, host)


def _parser() -> _Parser:
    parser = _Parser(prog="python -m node", description="A libp2p node, spoken to in JSON lines on stdin and stdout.")
    add = parser.add_argument
    add("--name", default="node", help="what the node is called in its logs")
    add("--role", choices=("peer", "relay"), default="peer", help="relay: grant reservations and circuits")
    add("--listen", action="append", metavar="ADDR", help=f"multiaddr to listen on, repeatable ({DEFAULT_LISTEN})")
    identity = parser.add_mutually_exclusive_group().add_argument
    identity("--key", type=Path, metavar="FILE", help="identity: a libp2p PrivateKey protobuf; made anew if not given")
    identity(
        "--key-type", choices=[kind.name.lower() for kind in KeyType], default="ed25519", help="kind of a new identity"
    )
    add("--state", type=Path, metavar="DIR", help="where a new identity is kept, and found again at the next start")
    add("--no-relay-client", dest="relay_client", action="store_false", help="neither reserve nor dial through relays")
    add("--no-dcutr", dest="dcutr", action="store_false", help="do not punch holes")
    add("--punch-attempts", type=_count, default=3, metavar="N", help="punches before giving up (3)")
    add("--punch-timeout", type=_seconds, default=5.0, metavar="SECONDS", help="how long one punch may take (5)")
    add("--deny", nargs="+", action="extend", default=[], metavar="CIDR", help="networks neither dialled nor accepted")
    add("--allow", nargs="+", action="extend", default=[], metavar="CIDR", help="exceptions to --deny")
    add("--log-level", choices=("debug", "info", "warning", "error"), default="info", help="what stderr gets (info)")
    return parser


def _key(file: Path | None, kind: str, state: Path | None) -> PrivateKey:
    kept = state / KEPT_KEY if state is not None else None
    chosen = file or (kept if kept is not None and kept.exists() else None)
    try:
        if chosen is not None:
            return _read_key(chosen)
        made = PrivateKey.generate(KeyType[kind.upper()])
        if kept is not None:
            with os.fdopen(os.open(kept, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as opened:
                opened.write(made.to_bytes())
        return made
    except (OSError, NodeError) as error:
        raise ConfigError(f"{'--key' if file else '--state'}: {error}") from error


def _read_key(file: Path) -> PrivateKey:
    with file.open("rb") as opened:
        return PrivateKey.from_bytes(opened.read(MAX_KEY_FILE))


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 100:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 to 100")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 3600")
    return seconds
