"""A host's configuration, made of the settings that a file and the command line give (`node.settings`).

What is wrong with them is said in one line, and the exit status is 2.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from node import settings
from node.errors import ConfigError, NodeError
from node.host import HostConfig
from node.logic.bootstrap import ENTRIES, candidate
from node.logic.gating import Authorisation, Gater
from node.logic.protection import securities
from node.logic.traffic import Rates
from node.logic.transports import examples, kind_of
from node.logic.trimming import Watermarks
from node.names.keys import KeyType, PrivateKey
from node.names.multiaddr import Multiaddr
from node.net import machine
from node.net.web_tls import WebConfig
from node.wire.mplex import PROTOCOL as MPLEX
from node.wire.stun import Endpoint
from node.wire.yamux import PROTOCOL as YAMUX

LISTED_RELAYS = 16
KEPT_KEY = "identity.key"
"""The file in the folder of a node's state."""
MAX_KEY_FILE = 16384
"""Bytes: an RSA key of 8192 bits takes less than 5 KiB."""


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """A node to run: who it is called, how much it logs, and its host."""

    name: str
    log_level: str
    log_format: str
    host: HostConfig


def parse(arguments: Sequence[str]) -> NodeConfig:
    """Return the configuration that the arguments ask for; ConfigError when they cannot be used."""
    options = settings.read(arguments)
    if options.key is not None and options.key_type != KeyType.ED25519.name.lower():
        raise ConfigError("--key-type is for new identities; --key names one that there is")
    try:
        listen = tuple(Multiaddr(text) for text in options.listen)
    except NodeError as error:
        raise ConfigError(f"--listen: {error}") from error
    for addr in listen:
        if kind_of(addr) is None or addr.peer_id is not None:
            raise ConfigError(f"--listen: {addr} is not {examples()}")
    _check_ports(listen)
    Gater(options.deny, options.allow)
    Authorisation(options.authorise)
    host = HostConfig(
        key=_key(options.key, options.key_type, options.state),
        listen=listen,
        relay_client=options.relay_client,
        relay_server=options.role == "relay",
        dcutr=options.dcutr,
        punch_attempts=options.punch_attempts,
        punch_timeout=options.punch_timeout,
        predict_ports=options.predict_ports,
        watermarks=Watermarks(options.connections_low, options.connections_high, options.connections_grace),
        liveness=options.liveness,
        metrics_listen=_endpoint("--metrics-listen", options.metrics_listen, "tcp") if options.metrics_listen else None,
        bootstrap=_bootstrap(options.bootstrap),
        bootstrap_floor=options.bootstrap_floor,
        port_mapping=options.port_mapping,
        port_mapping_check=options.port_mapping_check,
        mdns=options.mdns,
        mdns_dial=options.mdns_dial,
        rates=Rates(
            (options.limit_rate_in, options.limit_rate_out), (options.limit_peer_rate_in, options.limit_peer_rate_out)
        ),
        latency_threshold=options.limit_latency,
        limits=machine.limits(options.limit_memory, options.limit_files, options.limit_per_ip),
        state=options.state,
        deny=tuple(options.deny),
        allow=tuple(options.allow),
        authorised=tuple(options.authorise),
        security=securities(options.security),
        muxers=_muxers(options.muxer, mplex_too=options.mplex),
        psk=_swarm_key(options.swarm_key),
        web=WebConfig(options.ws_cert, options.ws_key, options.ws_ca),
        reachability=options.reachability,
        autonat_server=options.autonat_server or options.role == "relay",
        autonat_private=options.autonat_private,
        autonat_dial_timeout=options.autonat_dial_timeout,
        relays=_relays(options.relay),
        stun=tuple(_endpoint("--stun", text) for text in options.stun),
        stun_listen=_stun_listen(options.stun_listen),
    )
    return NodeConfig(options.name, options.log_level, options.log_format, host)


def _muxers(text: str, *, mplex_too: bool) -> tuple[str, ...]:
    known = {"yamux": YAMUX, "mplex": MPLEX}
    names = [*text.split(","), *(["mplex"] if mplex_too else [])]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"--muxer: no {unknown[0]!r} here; there are: {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names))


def _check_ports(listen: Sequence[Multiaddr]) -> None:
    """Refuse two listeners on one port: SO_REUSEPORT, which punching needs, would let each have some connections."""
    taken: dict[tuple[object, ...], Multiaddr] = {}
    for addr in listen:
        place = (addr.ip, addr.names[1], addr.port)
        if addr.port and place in taken:
            raise ConfigError(f"--listen: {addr} and {taken[place]} are on one port; give each its own")
        taken[place] = addr


def _endpoint(flag: str, text: str, carrier: str = "udp") -> Endpoint:
    try:
        addr = Multiaddr(text)
    except NodeError as error:
        raise ConfigError(f"{flag}: {error}") from error
    if addr.names not in (("ip4", carrier), ("ip6", carrier)) or addr.ip is None or not addr.port:
        raise ConfigError(f"{flag}: {text} is not /ip4|ip6/…/{carrier}/… with a port")
    return Endpoint(addr.ip, addr.port)


def _relays(texts: Sequence[str]) -> tuple[Multiaddr, ...]:
    if len(texts) > LISTED_RELAYS:
        raise ConfigError(f"--relay: at most {LISTED_RELAYS} relays, not {len(texts)}")
    try:
        relays = tuple(Multiaddr(text) for text in texts)
    except NodeError as error:
        raise ConfigError(f"--relay: {error}") from error
    for relay in relays:
        if relay.peer_id is None or relay.is_relayed:
            raise ConfigError(f"--relay: {relay} does not end in the /p2p/… of a relay that is dialled directly")
    return relays


def _stun_listen(texts: Sequence[str]) -> tuple[Endpoint, ...]:
    """One endpoint, or two that differ in address and port: an answer from elsewhere needs both."""
    endpoints = tuple(_endpoint("--stun-listen", text) for text in texts)
    if len(endpoints) > 2:
        raise ConfigError("--stun-listen: give one address, or two")
    if any(endpoint.ip.is_unspecified for endpoint in endpoints):
        raise ConfigError("--stun-listen: name an address of this host; answers must leave from the one that was asked")
    if len(endpoints) == 2:
        (ip, port), (other_ip, other_port) = endpoints
        if ip == other_ip or port == other_port or ip.version != other_ip.version:
            raise ConfigError("--stun-listen: the two must differ in address and in port, and be of one IP version")
    return endpoints


def _bootstrap(entries: Sequence[str]) -> tuple[Multiaddr, ...]:
    if len(entries) > ENTRIES:
        raise ConfigError(f"--bootstrap: at most {ENTRIES} entries")
    try:
        addrs = tuple(Multiaddr(entry) for entry in entries)
        for addr in addrs:
            candidate(addr)
    except NodeError as error:
        raise ConfigError(f"--bootstrap: {error}") from error
    return addrs


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


def _swarm_key(file: Path | None) -> bytes | None:
    if file is None:
        return None
    from node.wire.psk import MAX_FILE, read_key

    try:
        with file.open("rb") as opened:
            return read_key(opened.read(MAX_FILE))
    except (OSError, NodeError) as error:
        raise ConfigError(f"--swarm-key {file}: {error}") from error


def _read_key(file: Path) -> PrivateKey:
    with file.open("rb") as opened:
        return PrivateKey.from_bytes(opened.read(MAX_KEY_FILE))
