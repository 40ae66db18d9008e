"""The py-libp2p node behind the contract's commands."""

import time
from importlib.metadata import version
from pathlib import Path

import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.abc import INotifee
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import Ed25519PrivateKey, create_new_key_pair
from libp2p.crypto.keys import KeyPair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.host.ping import ID as PING
from libp2p.host.ping import perform_ping_roundtrip
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.perf import PROTOCOL_NAME, PerfService
from libp2p.relay.circuit_v2 import PROTOCOL_ID as HOP
from libp2p.relay.circuit_v2 import CircuitV2Protocol, CircuitV2Transport
from libp2p.relay.circuit_v2.config import RelayConfig, RelayRole
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE
from libp2p.security.noise.transport import Transport as NoiseTransport
from libp2p.security.tls.transport import PROTOCOL_ID as TLS
from libp2p.security.tls.transport import TLSTransport
from libp2p.utils.address_validation import expand_wildcard_address
from libp2p.utils.varint import read_length_prefixed_protobuf
from lines import Refusal, complain, event, reasons
from multiaddr import Multiaddr
from punching import Punching
from streams import ECHO, ECHO_MOST, PERF_MOST, exchange, measure, serve_echo

IMPLEMENTATION = "py-libp2p"
KEPT_KEY = "identity.key"
MAX_OBSERVED = 256
IDENTIFY_WITHIN = 10
IDENTIFY_AGAIN = 2
IDENTIFY_PAUSE = 0.5
ASK_SLOT = 4
"How often: over QUIC py-libp2p now and then does not read an answer that has come."
CIRCUIT = "/p2p-circuit"
LOOPBACK = ("/ip4/127.", "/ip6/::1/")


def identity(state):
    """The key that an earlier start has left in the folder, or a new one that is left there."""
    file = Path(state or "", KEPT_KEY)
    if state is not None and file.exists():
        key = Ed25519PrivateKey.from_bytes(file.read_bytes())
        return KeyPair(key, key.get_public_key())
    pair = create_new_key_pair()
    if state is not None:
        file.touch(mode=0o600)
        file.write_bytes(pair.private_key.to_bytes())
    return pair


def is_relayed(conn):
    return conn.get_connection_type() == ConnectionType.RELAYED or CIRCUIT in remote(conn)


def path(conn):
    return "relayed" if is_relayed(conn) else "direct"


def remote(conn):
    addrs = conn.get_transport_addresses()
    return str(addrs[0]) if addrs else ""


def stack(conn):
    """Transport, security and muxer; of QUIC's own two py-libp2p does not tell."""
    family = conn.get_transport_family()
    if family == "quic-v1":
        return {"transport": "quic", "security": str(TLS), "muxer": "quic"}
    return {
        "transport": "relay" if is_relayed(conn) else family,
        "security": conn.get_negotiated_security_protocol() or NOISE,
        "muxer": conn.get_negotiated_muxer_protocol() or "",
    }


def secured(pair, wanted):
    """The securities asked for, the preferred one first."""
    noise = NoiseTransport(pair, noise_privkey=create_noise_key().private_key)
    both = {"noise": (NOISE, noise), "tls": (TLS, TLSTransport(pair))}
    return dict(both[name] for name in wanted.split(","))


def place(conn):
    """Say where a connection leads and by what, of which py-libp2p knows nothing if it is secured by TLS."""
    secured_by = getattr(getattr(conn.muxed_conn, "secured_conn", None), "conn", None)
    raw = getattr(getattr(secured_by, "stream_writer", None), "raw_connection", None)
    if raw is not None and conn.get_connection_type() == ConnectionType.UNKNOWN:
        conn.set_transport_info(raw.get_transport_addresses(), raw.get_connection_type())


def peer_of(conn):
    return conn.muxed_conn.peer_id


def about(conn):
    """What `dial`, `connections` and the event `connected` tell; py-libp2p keeps the local address to itself."""
    return {
        "peer": peer_of(conn).to_base58(),
        "path": path(conn),
        "direction": conn.direction.name.lower(),
        "remote": remote(conn),
        **stack(conn),
    }


def target(request):
    try:
        return info_from_p2p_addr(Multiaddr(request.get("addr")))
    except Exception as error:  # several libraries parse it
        raise Refusal("bad-argument", f"`addr`: {reasons(error)}") from error


def known(request):
    try:
        return ID.from_base58(request.get("peer"))
    except Exception as error:
        raise Refusal("bad-argument", f"`peer`: {reasons(error)}") from error


def sized(request, name, most):
    value = request.get(name, 0)
    if not isinstance(value, int) or not 0 <= value <= most:
        raise Refusal("bad-argument", f"`{name}` must be from 0 to {most}")
    return value


def concrete(addrs):
    """The addresses of the interfaces in the place of wildcards, without loopback where there are others."""
    found = [one for addr in addrs for one in expand_wildcard_address(addr)]
    return [addr for addr in found if not str(addr).startswith(LOOPBACK)] or found


class Node(INotifee):
    """A host with its relay services; `nursery` is for what outlives a command."""

    def __init__(self, options, nursery):
        pair = identity(options.state)
        self.listens_on = [Multiaddr(addr) for addr in options.listen]
        self.version = version("libp2p")
        self.agent = f"{IMPLEMENTATION}/{self.version}"
        self.observed = set()
        self.since = {}
        self.dialled = {}
        self.nursery = nursery
        relays = options.role == "relay"
        self.host = new_host(
            key_pair=pair,
            sec_opt=secured(pair, options.security),
            muxer_opt=create_yamux_muxer_option(),
            listen_addrs=self.listens_on,
            # py-libp2p leaves wildcards out of what it tells with a slot, and rust takes no slot without an address.
            addrs_factory=concrete if relays else None,
        )
        # As a client, py-libp2p would reserve a slot for itself at every relay through which it dials.
        roles = RelayRole.STOP | RelayRole.HOP if relays else RelayRole.STOP
        self.circuits = CircuitV2Protocol(self.host, allow_hop=relays)
        self.through = CircuitV2Transport(self.host, self.circuits, RelayConfig(roles=roles))
        self.punching = Punching(self.host)
        self.perf_service = PerfService(self.host)
        self.host.set_stream_handler(ECHO, serve_echo)
        self.host.get_network().register_notifee(self)

    def announce(self):
        event("ready", peer=self.id, addrs=self.addrs(), agent=self.agent)
        for addr in self.addrs():
            event("listening", addr=addr)

    def commands(self):
        """The contract's commands by name."""
        names = ("info", "dial", "reserve", "echo", "ping", "connections", "disconnect", "perf", "protocols")
        return {name: getattr(self, name) for name in names}

    @property
    def id(self):
        return self.host.get_id().to_base58()

    def addrs(self):
        return [str(addr) for addr in self.host.get_addrs()]

    async def info(self, _):
        return {
            "peer": self.id,
            "addrs": self.addrs(),
            "observed": sorted(self.observed),
            "agent": self.agent,
            "version": self.version,
            "implementation": IMPLEMENTATION,
            "protocols": [str(name) for name in self.host.get_mux().get_protocols() if name],
        }

    async def dial(self, request):
        info = target(request)
        conn = self.best(info.peer_id, "direct")
        if conn is None:
            conn = await self.connect(Multiaddr(request["addr"]), info)
        rtt = await self.round_trip(info.peer_id)
        return {**about(self.best(info.peer_id, "direct") or conn), "rtt": rtt}

    async def connect(self, addr, info):
        try:
            if CIRCUIT not in str(addr):
                self.dialled[info.peer_id] = info.addrs[0]
                return await self.host.get_network().dial_addr(info.addrs[0], info.peer_id)
            # py-libp2p would know the circuit by the relay's name alone.
            conn = self.best(info.peer_id) or await self.through.dial(addr)
            conn.set_transport_info([addr], ConnectionType.RELAYED)
            return conn
        except Exception as error:
            why = reasons(error.__cause__ or error)
            kind = "wrong-peer" if "PeerID" in why and "match" in why else "dial-failed"
            raise Refusal(kind, f"{reasons(error)}: {why}") from error
        finally:
            self.dialled.pop(info.peer_id, None)

    async def reserve(self, request):
        info = target(request)
        if self.best(info.peer_id, "direct") is None:
            await self.connect(Multiaddr(request["addr"]), info)
        for _ in range(ASK_SLOT):
            if await self.ask_slot(info.peer_id):
                break
        else:
            raise Refusal("refused", f"py-libp2p has got no slot at {info.peer_id}; its log says why")
        expire = self.through._reservations[info.peer_id]
        voucher = self.through._reservation_proofs[info.peer_id].voucher
        reserved = {
            "relay": info.peer_id.to_base58(),
            "expire": expire,
            "addrs": [f"{request['addr']}{CIRCUIT}/p2p/{self.id}"],
        }
        event("reserved", **reserved)
        return {**reserved, "limit": None, "voucher": bool(voucher)}

    async def ask_slot(self, relay):
        """Whether a relay has granted one, as far as py-libp2p knows; why not is in its log."""
        stream = await self.host.new_stream(relay, [HOP])
        granted = await self.through.reserve(stream, relay, self.nursery)
        await stream.close()
        return granted

    async def echo(self, request):
        peer, size = known(request), sized(request, "bytes", ECHO_MOST)
        stream = await self.open(peer, request.get("protocol", ECHO))
        conn = stream.swarm_conn
        seconds = await self.finish(stream, exchange(stream, size))
        rtt = await self.round_trip(peer)
        return {"path": path(conn), "bytes": size, "seconds": seconds, "remote": remote(conn), "rtt": rtt}

    async def ping(self, request):
        peer = known(request)
        rtt = await self.round_trip(peer)
        return {"rtt": rtt, "path": path(self.connected_to(peer))}

    async def connections(self, _):
        conns = self.host.get_network().get_connections()
        return {"connections": [{**about(conn), "since": self.since.get(id(conn))} for conn in conns]}

    async def disconnect(self, request):
        peer = known(request)
        closed = len(self.host.get_network().get_connections(peer))
        await self.host.disconnect(peer)
        return {"closed": closed}

    async def perf(self, request):
        peer = known(request)
        upload, download = (sized(request, name, PERF_MOST) for name in ("upload", "download"))
        stream = await self.open(peer, PROTOCOL_NAME)
        conn = stream.swarm_conn
        return {**await self.finish(stream, measure(stream, upload, download)), "path": path(conn)}

    async def protocols(self, request):
        peer = known(request)
        self.connected_to(peer)
        return {"protocols": sorted(self.host.get_peerstore().get_protocols(peer))}

    def best(self, peer, wanted=""):
        """An open connection with that path, or the direct one before a relayed one; None without any."""
        open_ = [conn for conn in self.host.get_network().get_connections(peer) if not conn.is_closed]
        direct = next((conn for conn in open_ if not is_relayed(conn)), None)
        return direct or (open_[0] if open_ and not wanted else None)

    def connected_to(self, peer):
        if (conn := self.best(peer)) is None:
            raise Refusal("closed", f"there is no connection to {peer}")
        return conn

    async def open(self, peer, protocol):
        self.connected_to(peer)
        return await self.host.new_stream(peer, [protocol])

    async def finish(self, stream, work):
        """Await what is done on a stream, which is reset where it fails or the time is over."""
        try:
            result = await work
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await stream.reset()
            raise
        await stream.close()
        return result

    async def round_trip(self, peer):
        """One ping in seconds; py-libp2p's own rounds to milliseconds."""
        stream = await self.open(peer, PING)
        began = time.perf_counter()
        await self.finish(stream, perform_ping_roundtrip(stream))
        return time.perf_counter() - began

    async def connected(self, network, conn):
        self.since[id(conn)] = time.time()
        place(conn)
        addr = self.dialled.pop(peer_of(conn), None)
        if addr is not None and not conn.get_transport_addresses():
            conn.set_transport_info([addr], ConnectionType.DIRECT)  # of a WebSocket, py-libp2p does not know it
        self.nursery.start_soon(self.introduce, conn)

    async def introduce(self, conn):
        """Tell of a connection once its addresses are known, and of who is at its other end."""
        await conn.event_started.wait()
        event("connected", **about(conn))
        peer = peer_of(conn)
        both = {path(each) for each in self.host.get_network().get_connections(peer)}
        if not is_relayed(conn) and "relayed" in both:
            event("punch", stage="succeeded", peer=peer.to_base58(), attempt=1)
        try:
            with trio.fail_after(IDENTIFY_WITHIN):
                at, said = await self.ask_who(peer)
        except Exception as error:  # noqa: BLE001 - py-libp2p raises what it likes
            complain(f"identify of {peer}: {reasons(error)}")
            return
        self.identified(peer, at, said)

    async def ask_who(self, peer):
        """Identify, again where it breaks: py-libp2p's own runs beside it, and js-libp2p serves one at a time."""
        for _ in range(IDENTIFY_AGAIN):
            try:
                return await self.ask_once(peer)
            except Exception as error:  # noqa: BLE001 - py-libp2p raises what it likes
                complain(f"identify of {peer}, to be tried again: {reasons(error)}")
            await trio.sleep(IDENTIFY_PAUSE)
        return await self.ask_once(peer)

    async def ask_once(self, peer):
        """The connection that it ran on, and what was said; its own keeps most of what it learnt to itself."""
        stream = await self.host.new_stream(peer, [IDENTIFY])
        data = await read_length_prefixed_protobuf(stream, use_varint_format=True)
        return stream.swarm_conn, Identify.FromString(data)

    def identified(self, peer, conn, said):
        seen = str(Multiaddr(said.observed_addr)) if said.observed_addr else None
        fresh = seen and CIRCUIT not in seen and seen not in self.observed
        if fresh and not is_relayed(conn) and len(self.observed) < MAX_OBSERVED:
            self.observed.add(seen)
            event("observed", addr=seen, by=peer.to_base58())
        addrs = [str(Multiaddr(addr)) for addr in said.listen_addrs]
        event(
            "identified",
            peer=peer.to_base58(),
            path=path(conn),
            agent=said.agent_version,
            protocols=list(said.protocols),
            addrs=addrs,
            observed=seen,
        )

    async def disconnected(self, network, conn):
        self.since.pop(id(conn), None)
        event("disconnected", peer=peer_of(conn).to_base58(), path=path(conn), remote=remote(conn), why="closed")

    async def opened_stream(self, network, stream):
        pass

    async def closed_stream(self, network, stream):
        pass

    async def listen_close(self, network, multiaddr):
        pass

    async def listen(self, network, multiaddr):
        pass
