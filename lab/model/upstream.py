"""libp2p's own test suites, as they are asked for here: which programs, what they can do, and which tests come of that.

    transport-interop, hole-punch-interop   libp2p/test-plans
    transport, hole-punch                   libp2p/unified-testing

A version is a program and what it can do, `own` or one of a file in the form of test-plans' own versions:

    {"id": "go-v0.48", "transports": ["tcp", {"name": "wss", "onlyDial": true}], "secureChannels": ["noise"],
     "muxers": ["yamux"], "containerImageID": "sha256:9f2…"}

or, which is ours, `program` instead of an image: a path, or a list with arguments. Names of tests are upstream's, to
the letter.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from pathlib import Path
from typing import Any, Final

from lab.errors import TopologyError
from lab.files import read_asked
from lab.model.runner import is_image

STANDALONE: Final = ("quic", "quic-v1", "webtransport", "webrtc", "webrtc-direct")
"transports that bring their own security and muxer, by upstream's names"
MAX_FILE: Final = 1 << 20
"bytes of a file of versions"
MAX_VERSIONS: Final = 500
OWN_ID: Final = "punchlab"
"what our node is called in the names of tests"


class Suite(Enum):
    """A test suite, by its folder upstream."""

    TRANSPORT_INTEROP = "transport-interop"
    HOLE_PUNCH_INTEROP = "hole-punch-interop"
    TRANSPORT = "transport"
    HOLE_PUNCH = "hole-punch"

    @property
    def punches(self) -> bool:
        """Whether it has two NATs and a relay, or just two peers."""
        return self in (Suite.HOLE_PUNCH_INTEROP, Suite.HOLE_PUNCH)

    @property
    def unified(self) -> bool:
        """Whether it is one of unified-testing."""
        return self in (Suite.TRANSPORT, Suite.HOLE_PUNCH)

    @property
    def timeout(self) -> float:
        """Seconds that upstream gives one test."""
        return 60.0 if self is Suite.HOLE_PUNCH_INTEROP else 180.0

    @property
    def transports(self) -> tuple[str, ...]:
        """Those that our node has, by the suite's names."""
        return {
            Suite.HOLE_PUNCH_INTEROP: ("tcp", "quic"),
            Suite.HOLE_PUNCH: ("tcp", "quic-v1"),
        }.get(self, ("tcp", "ws", "quic-v1"))


@dataclass(frozen=True, slots=True)
class Version:
    """One implementation in one version."""

    id: str
    program: tuple[str, ...] = ()
    "what is started; nothing, and no image: our node"
    transports: tuple[str, ...] | None = None
    "None: whatever is asked for"
    only_dials: frozenset[str] = frozenset()
    "transports on which it does not listen"
    securities: tuple[str, ...] | None = None
    muxers: tuple[str, ...] | None = None
    legacy: bool = False
    "of unified-testing: it knows the words of transport-interop only"
    timeout: int | None = None
    "seconds that it is told to give a test"
    image: str | None = None
    "what is started in a container, instead of a program"

    def listens(self, transport: str) -> bool:
        """Whether others can dial it by that transport."""
        return _has(self.transports, transport) and transport not in self.only_dials


OWN: Final = Version(OWN_ID, securities=("noise", "tls"), muxers=("yamux", "mplex"))
"our node; which transports it has is the suite's to say"


@dataclass(frozen=True, slots=True)
class Case:
    """One test."""

    suite: Suite
    dialer: Version
    listener: Version
    transport: str
    security: str | None = None
    "None: the transport's own, or the suite does not say"
    muxer: str | None = None
    relay: Version = OWN
    nats: tuple[str, str] = ("home", "home")
    "presets in front of dialer and listener, where the suite has NATs"

    @property
    def name(self) -> str:
        """As upstream would write it."""
        how = ", ".join(filter(None, (self.transport, self.security, self.muxer)))
        name = f"{self.dialer.id} x {self.listener.id} ({how})"
        if self.suite is Suite.HOLE_PUNCH:
            name += f" [dr - {self.nats[0]}, rly - {self.relay.id}, lr - {self.nats[1]}]"
        return name

    @property
    def key(self) -> str:
        """What unified-testing has keys in Redis begin with."""
        return hashlib.sha256(f"{self.name}\n".encode()).hexdigest()[:8]

    @property
    def slug(self) -> str:
        """The name of a folder for it; two tests never have the same."""
        digest = hashlib.sha256(f"{self.name} {self.nats} {self.relay.id}".encode()).hexdigest()[:6]
        words = [self.dialer.id, self.listener.id, self.transport, self.security, self.muxer]
        words += self.nats if self.suite.punches else ()
        return re.sub(r"[^A-Za-z0-9.-]+", "-", "--".join(filter(None, words)))[:100] + f"-{digest}"


@dataclass(frozen=True, slots=True)
class Wish:
    """Which tests are wanted; an empty choice is no choice."""

    suite: Suite
    dialers: tuple[Version, ...]
    listeners: tuple[Version, ...]
    relays: tuple[Version, ...] = (OWN,)
    transports: tuple[str, ...] = ()
    securities: tuple[str, ...] = ()
    muxers: tuple[str, ...] = ()
    dialer_nats: tuple[str, ...] = ("home",)
    listener_nats: tuple[str, ...] = ("home",)


def cases(wish: Wish) -> tuple[Case, ...]:
    """Every test that its versions can take part in, in the order of the wish; TopologyError if there is none."""
    found = tuple(_cases(wish))
    if not found:
        who = ", ".join(version.id for version in (*wish.dialers, *wish.listeners))
        raise TopologyError(f"no test of {wish.suite.value} that all of {who} can take part in as you ask")
    return found


def _cases(wish: Wish) -> Iterator[Case]:
    relays = wish.relays if wish.suite.punches else (OWN,)
    nats = tuple(product(wish.dialer_nats, wish.listener_nats)) if wish.suite.punches else (("home", "home"),)
    for dialer, listener, relay in product(wish.dialers, wish.listeners, relays):
        parts = (dialer, listener, relay) if wish.suite.punches else (dialer, listener)
        for transport in wish.transports or wish.suite.transports:
            if not _has(dialer.transports, transport) or not all(each.listens(transport) for each in parts[1:]):
                continue
            upgrades = [(None, None)] if _brings_its_own(wish.suite, transport) else list(_upgrades(wish, parts))
            for (security, muxer), pair in product(upgrades, nats):
                yield Case(wish.suite, dialer, listener, transport, security, muxer, relay, pair)


def _brings_its_own(suite: Suite, transport: str) -> bool:
    return suite is Suite.HOLE_PUNCH_INTEROP or transport in STANDALONE


def _upgrades(wish: Wish, parts: Iterable[Version]) -> Iterator[tuple[str | None, str | None]]:
    parts = list(parts)
    securities = [
        each for each in wish.securities or ("noise", "tls") if all(_has(one.securities, each) for one in parts)
    ]
    muxers = [each for each in wish.muxers or ("yamux", "mplex") if all(_has(one.muxers, each) for one in parts)]
    yield from product(securities, muxers)


def _has(known: Sequence[str] | None, name: str) -> bool:
    return known is None or name in known


def read_versions(path: Path) -> dict[str, Version]:
    """The versions of a file, by id: one, or a list of them. TopologyError names the file, the version and the key."""
    text = read_asked(path, MAX_FILE, "a file of versions")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise TopologyError(f"{path}: not JSON, which files of versions are: {error}") from None
    items = value if isinstance(value, list) else [value]
    if len(items) > MAX_VERSIONS:
        raise TopologyError(f"{path}: {len(items)} versions; allowed: {MAX_VERSIONS}")
    versions: dict[str, Version] = {}
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict) or not isinstance(item.get("id"), str) or not item["id"].strip():
            raise TopologyError(f"{path}: version {number} has no `id`")
        if item["id"] in versions:
            raise TopologyError(f"{path}: two versions are called {item['id']!r}")
        versions[item["id"]] = _version(f"{path}: {item['id']}", item)
    return versions


def _version(where: str, item: Mapping[str, Any]) -> Version:
    transports = item.get("transports")
    if not isinstance(transports, list) or not all(map(_is_transport, transports)):
        raise TopologyError(f'{where}: `transports` must be a list of names and {{"name": …, "onlyDial": …}}')
    plain = [each if isinstance(each, dict) else {"name": each, "onlyDial": False} for each in transports]
    program = item.get("program", [])
    words = [program] if isinstance(program, str) else program
    timeout = item.get("timeoutSecs")
    if timeout is not None and (not isinstance(timeout, int) or isinstance(timeout, bool) or timeout <= 0):
        raise TopologyError(f"{where}: `timeoutSecs` must be a whole number of seconds")
    image = item.get("containerImageID")
    if image is not None and not (isinstance(image, str) and is_image(image)):
        raise TopologyError(f"{where}: `containerImageID` must be the name or the id of an image")
    if image is None and not words and item["id"] != OWN_ID:
        raise TopologyError(f"{where}: `containerImageID` or `program` is missing: what is started here")
    return Version(
        id=item["id"],
        program=_names(where, "program", words),
        image=None if words else image,
        transports=tuple(each["name"] for each in plain),
        only_dials=frozenset(each["name"] for each in plain if each.get("onlyDial")),
        securities=_names(where, "secureChannels", item["secureChannels"]) if "secureChannels" in item else None,
        muxers=_names(where, "muxers", item["muxers"]) if "muxers" in item else None,
        legacy=item.get("legacy") is True,
        timeout=timeout,
    )


def _is_transport(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("name"), str))


def _names(where: str, key: str, value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise TopologyError(f"{where}: `{key}` must be a list of texts")
    return tuple(value)
