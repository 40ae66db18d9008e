"""Every setting of a node, declared once: its key in a TOML file, its flag, its default and where that comes from.

    python -m node --config node.toml --listen /ip4/0.0.0.0/tcp/4001

`read` merges what a file and the command line say; the command line wins. `node.config` makes a host's configuration of
the values, and `node.configdoc` the page in the documentation.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from node.errors import ConfigError
from node.logic.limits import MOST_CONNECTIONS
from node.names.keys import KeyType

MAX_FILE = 1 << 18
"""Bytes of a configuration file."""
REACHABILITY = ("off", "auto", "public", "private")
DEFAULT_LISTEN = "/ip4/0.0.0.0/tcp/0"

Parse = Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `key` is `section.name`; a flag that begins with `--no-` switches off what is on by default."""

    key: str
    flag: str
    help: str
    default: Any = None
    metavar: str = "VALUE"
    parse: Parse | None = None
    """Text to value, raising argparse.ArgumentTypeError; None: a switch."""
    many: bool = False
    """A list in a file, repeatable on the command line."""
    source: str = ""
    """Where the default comes from; empty: our own choice."""

    @property
    def name(self) -> str:
        """The attribute in what `read` returns."""
        return self.flag.removeprefix("--").removeprefix("no-").replace("-", "_")

    @property
    def section(self) -> str:
        """The table of the file."""
        return self.key.partition(".")[0]

    @property
    def shown_default(self) -> str:
        """The default as a file would have it."""
        match self.default:
            case None:
                return ""
            case bool():
                return str(self.default).lower()
            case str():
                return f'"{self.default}"'
            case tuple():
                return "[" + ", ".join(f'"{each}"' for each in self.default) + "]"
            case _:
                return f"{self.default:g}"


def read(arguments: Sequence[str]) -> SimpleNamespace:
    """Return all settings by name, from defaults, file and arguments; ConfigError when they cannot be used."""
    given = vars(_parser().parse_args(arguments))
    file = given.pop("config", None)
    values = {setting.name: setting.default for setting in SETTINGS}
    values |= {} if file is None else _of_file(file)
    return SimpleNamespace(**{**values, **given})


# ── the command line ─────────────────────────────────────────────────────────────────────────────────────────────────


class _Parser(argparse.ArgumentParser):
    """A parser whose complaint is a ConfigError, so that there is one place that prints it."""

    def error(self, message: str) -> None:  # type: ignore[override]
        raise ConfigError(message)


def _parser() -> _Parser:
    parser = _Parser(
        prog="python -m node",
        description="A libp2p node, spoken to in JSON lines on stdin and stdout.",
        argument_default=argparse.SUPPRESS,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with any of these settings")
    groups: dict[str, Any] = {}
    for setting in SETTINGS:
        group = groups.get(setting.section) or parser.add_argument_group(f"[{setting.section}]")
        groups[setting.section] = group
        if setting.parse is None:
            action = "store_false" if setting.default else "store_true"
            group.add_argument(setting.flag, dest=setting.name, action=action, help=setting.help)
            continue
        more: dict[str, Any] = {"action": "extend", "nargs": "+"} if setting.many else {}
        shown = "" if setting.default in (None, ()) else f" ({setting.shown_default})"
        group.add_argument(
            setting.flag,
            dest=setting.name,
            type=setting.parse,
            metavar=setting.metavar,
            help=f"{setting.help}{shown}".replace("%", "%%"),
            **more,
        )
    return parser


# ── files ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_file(path: Path) -> dict[str, Any]:
    import tomllib

    try:
        with path.open("rb") as opened:
            data = opened.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ConfigError(f"{path}: longer than a configuration may be, {MAX_FILE >> 10} KiB")
        text = data.decode()
        tables = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not TOML: {error}") from error
    return dict(_values(path, text, tables))


def _values(path: Path, text: str, tables: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    sections = list(dict.fromkeys(setting.section for setting in SETTINGS))
    for section, table in tables.items():
        if section not in sections or not isinstance(table, dict):
            place = f"{path}:{_line(text, section, None)}"
            raise ConfigError(
                f"{place}: no section [{section}]{_close(section, sections)}; allowed: {', '.join(sections)}"
            )
        known = {each.key.partition(".")[2]: each for each in SETTINGS if each.section == section}
        for name, value in table.items():
            place = f"{path}:{_line(text, section, name)}: [{section}]"
            if name not in known:
                raise ConfigError(f"{place} no key {name!r}{_close(name, list(known))}; allowed: {', '.join(known)}")
            try:
                yield known[name].name, _value(known[name], value)
            except argparse.ArgumentTypeError as error:
                raise ConfigError(f"{place} {name}: {error}") from error


def _value(setting: Setting, value: object) -> Any:
    if setting.parse is None:
        if not isinstance(value, bool):
            raise argparse.ArgumentTypeError(f"{value!r} is neither true nor false")
        return value
    if setting.many:
        if not isinstance(value, list):
            raise argparse.ArgumentTypeError(f"{value!r} is no list, such as [{setting.metavar!r}]")
        return [_one(setting.parse, each) for each in value]
    return _one(setting.parse, value)


def _one(parse: Parse, value: object) -> Any:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        raise argparse.ArgumentTypeError(f"{value!r} is neither a text nor a number")
    return parse(str(value))


def _line(text: str, section: str, name: str | None) -> int:
    """The line of a section, or of a key in it; 1 where it is written in a way that we do not look for."""
    inside = None
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([\w-]+)\s*\]", line):
            inside = header[1]
        key = None if header else re.match(r"\s*\"?([\w-]+)", line)
        if name is None and (inside == section or (inside is None and key is not None and key[1] == section)):
            return number
        if key is not None and inside == section and key[1] == name:
            return number
    return 1


def _close(word: str, known: Sequence[str]) -> str:
    from difflib import get_close_matches

    found = get_close_matches(word, known, 1)
    return f" (did you mean {found[0]!r}?)" if found else ""


# ── kinds of values ──────────────────────────────────────────────────────────────────────────────────────────────────


def whole(least: int, most: int) -> Parse:
    """A number without fraction within bounds."""

    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text) <= most:
            raise argparse.ArgumentTypeError(f"{text!r} is not a number from {least} to {most}")
        return int(text)

    return parse


def seconds(text: str) -> float:
    """A length of time."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds up to 3600")
    return value


def one_of(*known: str) -> Parse:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in known:
            raise argparse.ArgumentTypeError(f"{text!r} is none of {', '.join(known)}")
        return text

    return parse


GO = "go-libp2p's default"
SETTINGS: tuple[Setting, ...] = (
    Setting("node.name", "--name", "what the node is called in its logs", "node", "NAME", str),
    Setting("node.role", "--role", "relay: grant reservations and circuits", "peer", "ROLE", one_of("peer", "relay")),
    Setting("node.state", "--state", "folder of identity and known peers, found again there", None, "DIR", Path),
    Setting("node.key", "--key", "identity: a libp2p PrivateKey protobuf; made anew if not given", None, "FILE", Path),
    Setting(
        "node.key-type",
        "--key-type",
        f"kind of a new identity: {', '.join(kind.name.lower() for kind in KeyType)}",
        "ed25519",
        "KIND",
        one_of(*(kind.name.lower() for kind in KeyType)),
        source="specs/peer-ids: new peers should use Ed25519",
    ),
    Setting(
        "node.log-level",
        "--log-level",
        "what stderr gets: debug, info, warning, error",
        "info",
        "LEVEL",
        one_of("debug", "info", "warning", "error"),
    ),
    Setting(
        "node.log-format",
        "--log-format",
        "how stderr gets it: text, json",
        "text",
        "FORMAT",
        one_of("text", "json"),
    ),
    Setting("connections.listen", "--listen", "multiaddr to listen on", (DEFAULT_LISTEN,), "ADDR", str, many=True),
    Setting(
        "connections.security",
        "--security",
        "encrypted, signed, clear, or of noise,tls in order of preference",
        "encrypted",
        "WHICH",
        str,
        source="specs/connections: connections must be secured",
    ),
    Setting(
        "connections.muxer",
        "--muxer",
        "of yamux,mplex in order of preference",
        "yamux",
        "WHICH",
        str,
        source="specs/mplex: deprecated",
    ),
    Setting(
        "connections.mplex",
        "--mplex",
        "offer mplex after yamux: without flow control",
        False,
        source="specs/mplex: deprecated",
    ),
    Setting(
        "connections.swarm-key",
        "--swarm-key",
        "key of a private network: peers without it are not understood",
        None,
        "FILE",
        Path,
    ),
    Setting("connections.ws-cert", "--ws-cert", "PEM certificates for listening on /tls/ws", None, "FILE", Path),
    Setting("connections.ws-key", "--ws-key", "PEM private key, if not in the file of --ws-cert", None, "FILE", Path),
    Setting("connections.ws-ca", "--ws-ca", "PEM authorities to trust in wss, beside the system's", None, "FILE", Path),
    Setting(
        "connections.deny", "--deny", "CIDR, multiaddr pattern or peer not to connect with", (), "RULE", str, many=True
    ),
    Setting("connections.allow", "--allow", "exception to what is denied", (), "RULE", str, many=True),
    Setting(
        "connections.authorise",
        "--authorise",
        "who alone may open a protocol, /protocol=peer,peer",
        (),
        "RULE",
        str,
        many=True,
    ),
    Setting(
        "connections.low",
        "--connections-low",
        "how many are left when some are closed",
        160,
        "N",
        whole(0, MOST_CONNECTIONS),
        source=GO,
    ),
    Setting(
        "connections.high",
        "--connections-high",
        "how many are too many, so that some are closed",
        192,
        "N",
        whole(0, MOST_CONNECTIONS),
        source=GO,
    ),
    Setting(
        "connections.grace", "--connections-grace", "how long new ones are spared", 60.0, "SECONDS", seconds, source=GO
    ),
    Setting(
        "connections.liveness",
        "--liveness",
        "silence after which protected peers, and relays with a slot of ours, are asked for a sign of life",
        15.0,
        "SECONDS",
        seconds,
    ),
    Setting(
        "limits.memory",
        "--limit-memory",
        "MiB that connections may take, which all limits grow with; an eighth of the machine's if not given",
        None,
        "MIB",
        whole(1, 1 << 20),
        source=GO,
    ),
    Setting(
        "limits.files",
        "--limit-files",
        "file descriptors that connections may take; half of the process's if not given",
        None,
        "N",
        whole(1, 1 << 20),
        source=GO,
    ),
    Setting(
        "limits.per-ip",
        "--limit-per-ip",
        "inbound connections of one IPv4 address, or one /56 of IPv6, but for loopback",
        8,
        "N",
        whole(1, MOST_CONNECTIONS),
        source=GO,
    ),
    *(
        Setting(f"limits.{whose}rate-{way}", f"--limit-{whose}rate-{way}", help, None, "BYTES", whole(1024, 1 << 40))
        for whose, way, help in (
            ("", "in", "payload per second that all peers together may send us; unlimited if not given"),
            ("", "out", "payload per second that we send all peers together; unlimited if not given"),
            ("peer-", "in", "payload per second that each peer may send us; unlimited if not given"),
            ("peer-", "out", "payload per second that we send each peer; unlimited if not given"),
        )
    ),
    Setting(
        "limits.latency",
        "--limit-latency",
        "round trip from which a peer is called slow, by an event; never if not given",
        None,
        "SECONDS",
        seconds,
    ),
    Setting("punch.enabled", "--no-dcutr", "do not punch holes", True),
    Setting(
        "punch.attempts",
        "--punch-attempts",
        "punches before giving up",
        3,
        "N",
        whole(1, 100),
        source="specs/relay/DCUtR: at most three",
    ),
    Setting("punch.timeout", "--punch-timeout", "how long one punch may take", 5.0, "SECONDS", seconds, source=GO),
    Setting(
        "punch.predict",
        "--predict-ports",
        "with peers that do so, too: foretell ports of symmetric NATs (sequential), and find by many datagrams those"
        " that are drawn at random (spray); off",
        "off",
        "WHICH",
        one_of("off", "sequential", "spray"),
    ),
    Setting("relay.client", "--no-relay-client", "neither reserve nor dial through relays", True),
    Setting("relay.keep", "--relay", "relay to keep a slot at, ending in /p2p/…", (), "ADDR", str, many=True),
    Setting(
        "discovery.bootstrap",
        "--bootstrap",
        "peer to connect to at first, or /dnsaddr of some",
        (),
        "ADDR",
        str,
        many=True,
    ),
    Setting(
        "discovery.bootstrap-floor",
        "--bootstrap-floor",
        "connect to the bootstraps, and to peers that proved stable, below so many connected peers; 0: never",
        4,
        "N",
        whole(0, 64),
        source="go-libp2p-kad-dht's and kubo's minimum of 4 peers",
    ),
    Setting("discovery.mdns", "--mdns", "discover peers on the local network, and connect to them", False),
    Setting("discovery.mdns-dial", "--no-mdns-dial", "tell of the peers that mDNS finds, no more", True),
    Setting(
        "reachability.is",
        "--reachability",
        "auto: ask AutoNAT servers; public, private: as somebody knows; off",
        "off",
        "WHICH",
        one_of(*REACHABILITY),
    ),
    Setting(
        "reachability.autonat-server",
        "--autonat-server",
        "tell peers what can be dialled of theirs, as relays do",
        False,
    ),
    Setting("reachability.autonat-private", "--autonat-private", "AutoNAT tests private addresses too", False),
    Setting(
        "reachability.autonat-dial-timeout",
        "--autonat-dial-timeout",
        "how long an AutoNAT server tries an address",
        5.0,
        "SECONDS",
        seconds,
        source=GO,
    ),
    Setting(
        "reachability.stun", "--stun", "STUN server, /ip4/…/udp/…, to learn our NAT from", (), "ADDR", str, many=True
    ),
    Setting(
        "reachability.stun-listen",
        "--stun-listen",
        "serve STUN; twice, for others to learn theirs",
        (),
        "ADDR",
        str,
        many=True,
    ),
    Setting(
        "reachability.port-mapping",
        "--port-mapping",
        "have the router open our ports, by PCP, NAT-PMP or UPnP",
        False,
        source="off, as go-libp2p's NATPortMap",
    ),
    Setting(
        "reachability.port-mapping-check",
        "--port-mapping-check",
        "how often leases are checked",
        60.0,
        "SECONDS",
        seconds,
    ),
    Setting(
        "metrics.listen", "--metrics-listen", "serve Prometheus metrics by HTTP there, /ip4/…/tcp/…", None, "ADDR", str
    ),
)
"""All of them, in the order of the documentation."""
