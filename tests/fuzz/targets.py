"""All that reads bytes or text of strangers, each with seeds: valid input to break.

`covers` names what a target reaches, as `module:qualified.name`; a test fails where a decoder of `node.wire` or
`node.names` is not named by any (`tests/unit/test_fuzz_targets.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import IPv4Address, ip_address
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from lab.services import resp
from lab.services.resp import RespError
from node.errors import NodeError
from node.names import envelope, fields, multibase, varint
from node.names.envelope import Envelope, PeerRecord, open_peer_record, seal_peer_record
from node.names.keys import KeyType, PrivateKey, PublicKey
from node.names.multiaddr import Multiaddr, parse_known
from node.names.multihash import HashCode, Multihash
from node.names.peerid import PeerId
from node.wire import (
    autonat,
    autonat_v1,
    dcutr,
    identify,
    mdns,
    multistream,
    natpmp,
    pcp,
    predict,
    psk,
    relay,
    stun,
    tls,
    tls_certificate,
)
from node.wire.framing import LengthDelimited
from node.wire.lines import Lines
from node.wire.mplex import Mplex
from node.wire.noise import Noise
from node.wire.plaintext import Plaintext
from node.wire.psk import PrivateNetwork
from node.wire.websocket import WebSocket
from node.wire.yamux import Yamux

NOW = datetime(2026, 1, 1, tzinfo=UTC)
P256 = ec.derive_private_key(7, ec.SECP256R1())
ADDRS = tuple(
    Multiaddr(text)
    for text in (
        "/ip4/11.0.0.1/tcp/4001",
        "/ip6/2a11::1/udp/4001/quic-v1",
        "/dns4/relay.example/tcp/443/tls/ws",
        "/dnsaddr/bootstrap.example",
    )
)


@dataclass(frozen=True, slots=True)
class Target:
    """One reader: `feed` gives it bytes, in a state of its own each time."""

    name: str
    covers: tuple[str, ...]
    feed: Callable[[bytes], object]
    make_seeds: Callable[[], Sequence[bytes]]

    @property
    def seeds(self) -> tuple[bytes, ...]:
        """Valid input."""
        return _seeds(self.make_seeds)


@cache
def _seeds(make: Callable[[], Sequence[bytes]]) -> tuple[bytes, ...]:
    return tuple(make())


def accept(target: Target, data: bytes) -> bool:
    """Feed a target; True if it took the bytes, False if it refused them by a typed error. Anything else escapes."""
    try:
        target.feed(data)
    except (NodeError, RespError):
        return False
    return True


@cache
def key(kind: KeyType = KeyType.ED25519) -> PrivateKey:
    """One identity for all seeds; RSA keys take long to make."""
    return PrivateKey.generate(kind)


def _text(parse: Callable[[str], object]) -> Callable[[bytes], object]:
    return lambda data: parse(data.decode("utf-8", "surrogateescape"))


def _pieces(data: bytes) -> Iterator[bytes]:
    """The bytes in reads of uneven sizes, as a network brings them."""
    offset, size = 0, 1
    while offset < len(data):
        yield data[offset : offset + size]
        offset, size = offset + size, size * 3 % 61 + 1


def _machine(make: Callable[[], Any]) -> Callable[[bytes], object]:
    def feed(data: bytes) -> None:
        machine = make()
        for piece in _pieces(data):
            machine.receive_data(piece)
            machine.data_to_send()

    return feed


def _yamux(initiator: bool) -> Callable[[bytes], object]:
    def feed(data: bytes) -> None:
        machine = Yamux(initiator=initiator, now=0.0)
        machine.open_stream(0.0)
        for second, piece in enumerate(_pieces(data)):
            machine.receive_data(piece, float(second))
            machine.data_to_send(1 << 16)

    return feed


# ── names ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _key_seeds() -> list[bytes]:
    return [key(kind).public.to_bytes() for kind in KeyType]


def _private_seeds() -> list[bytes]:
    return [key(kind).to_bytes() for kind in KeyType]


def _signature_seeds() -> list[bytes]:
    return [key(kind).sign(b"message") for kind in KeyType]


def _verify(data: bytes) -> None:
    for kind in KeyType:
        key(kind).public.verify(b"message", data)


def _addr_seeds() -> list[bytes]:
    circuit = ADDRS[0].with_peer(key().peer_id()).to_bytes() + Multiaddr("/p2p-circuit").to_bytes()
    return [*(addr.to_bytes() for addr in ADDRS), circuit]


def _addr_text_seeds() -> list[bytes]:
    return [str(addr.with_peer(key().peer_id())).encode() for addr in ADDRS]


def _record_seeds() -> list[bytes]:
    return [PeerRecord(key().peer_id(), 7, ADDRS).to_bytes()]


def _envelope_seeds() -> list[bytes]:
    return [seal_peer_record(key(kind), 7, ADDRS) for kind in KeyType]


def _open(data: bytes) -> None:
    Envelope.open(data, envelope.PEER_RECORD_DOMAIN, envelope.PEER_RECORD_TYPE)


def _peer_text_seeds() -> list[bytes]:
    return [str(key(kind).peer_id()).encode() for kind in (KeyType.ED25519, KeyType.RSA)]


NAMES = (
    Target(
        "varint",
        ("node.names.varint:decode",),
        varint.decode,
        lambda: [varint.encode(value) for value in (0, 127, 128, 1 << 62)],
    ),
    Target("fields", ("node.names.fields:decode",), lambda data: list(fields.decode(data)), _key_seeds),
    Target(
        "multihash",
        ("node.names.multihash:Multihash.from_bytes",),
        Multihash.from_bytes,
        lambda: [Multihash.of(HashCode.SHA2_256, b"x").to_bytes()],
    ),
    Target(
        "multibase",
        ("node.names.multibase:decode",),
        _text(multibase.decode),
        lambda: [multibase.encode(base, b"bytes").encode() for base in ("base58btc", "base32", "base36", "base64url")],
    ),
    Target("peer id, text", ("node.names.peerid:PeerId.parse",), _text(PeerId.parse), _peer_text_seeds),
    Target("peer id", (), PeerId, lambda: [key(kind).peer_id().to_bytes() for kind in KeyType]),
    Target("public key", ("node.names.keys:PublicKey.from_bytes",), PublicKey.from_bytes, _key_seeds),
    Target("private key", ("node.names.keys:PrivateKey.from_bytes",), PrivateKey.from_bytes, _private_seeds),
    Target("signature", (), _verify, _signature_seeds),
    Target("multiaddr", ("node.names.multiaddr:Multiaddr.from_bytes",), Multiaddr.from_bytes, _addr_seeds),
    Target("multiaddr, text", (), _text(Multiaddr), _addr_text_seeds),
    Target(
        "known multiaddrs",
        ("node.names.multiaddr:parse_known",),
        lambda data: parse_known([data, data[: len(data) // 2]]),
        _addr_seeds,
    ),
    Target("peer record", ("node.names.envelope:PeerRecord.from_bytes",), PeerRecord.from_bytes, _record_seeds),
    Target("envelope", ("node.names.envelope:Envelope.from_bytes",), _open, _envelope_seeds),
    Target("signed record", ("node.names.envelope:open_peer_record",), open_peer_record, _envelope_seeds),
)

# ── messages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _identify_seeds() -> list[bytes]:
    record = seal_peer_record(key(), 7, ADDRS)
    full = identify.Identify(key().public, ADDRS, ("/a/1", "/b/2"), ADDRS[0], "ipfs/0.1.0", "agent", record)
    return [full.to_bytes(), identify.Identify().to_bytes()]


def _hop_seeds() -> list[bytes]:
    peer = relay.RelayPeer(key().peer_id(), ADDRS)
    reservation = relay.Reservation(1 << 31, ADDRS, relay.Voucher(key().peer_id(), key().peer_id(), 7).seal(key()))
    connect = relay.HopMessage(relay.HopType.CONNECT, peer=peer)
    status = relay.HopMessage(
        relay.HopType.STATUS, reservation=reservation, limit=relay.Limit(120, 1 << 17), status=relay.Status.OK
    )
    return [connect.to_bytes(), status.to_bytes()]


def _stop_seeds() -> list[bytes]:
    peer = relay.RelayPeer(key().peer_id(), ADDRS)
    return [relay.StopMessage(relay.StopType.CONNECT, peer=peer, limit=relay.Limit(120, 1 << 17)).to_bytes()]


def _voucher_seeds() -> list[bytes]:
    return [relay.Voucher(key().peer_id(), key().peer_id(), 7).seal(key())]


def _autonat_seeds() -> list[bytes]:
    messages = (
        autonat.DialRequest(ADDRS, 7),
        autonat.DialDataRequest(1, 30_000),
        autonat.DialDataResponse(b"x" * 100),
        autonat.DialResponse(autonat.ResponseStatus.OK, 1, autonat.DialStatus.OK),
    )
    return [autonat.encode(message) for message in messages]


def _dial_seeds() -> list[bytes]:
    return [autonat_v1.Dial(key().peer_id(), ADDRS).to_bytes()]


def _dialled_seeds() -> list[bytes]:
    return [autonat_v1.DialResponse(autonat_v1.Status.OK, addr=ADDRS[0]).to_bytes()]


def _certificate(data: bytes) -> None:
    tls_certificate.verify_certificates([data], NOW)


def _certificate_seeds() -> list[bytes]:
    return [_certificate_of(kind) for kind in KeyType]


def _certificate_of(kind: KeyType) -> bytes:
    begin, end = NOW - timedelta(days=1), NOW + timedelta(days=1)
    made = tls_certificate.make_certificate(key(kind), P256, serial=7, begin=begin, end=end)
    return made.public_bytes(Encoding.DER)


def _stun(data: bytes) -> None:
    message = stun.decode(data)
    for read in (lambda: message.mapped, lambda: message.endpoint(stun.Attribute.OTHER_ADDRESS), message.unknown):
        read()
    if (value := message.value(stun.Attribute.CHANGE_REQUEST)) is not None:
        stun.read_change_request(value)


def _stun_seeds() -> list[bytes]:
    transaction = bytes(range(12))
    ends = [stun.Endpoint(ip_address(text), 3478) for text in ("11.0.0.1", "2a11::1")]
    answer = [stun.xor_mapped(ends[0], transaction), stun.address(stun.Attribute.OTHER_ADDRESS, ends[1])]
    ask = stun.Message(stun.Method.BINDING, stun.Class.REQUEST, transaction, (stun.change_request(ip=True, port=True),))
    told = stun.Message(stun.Method.BINDING, stun.Class.SUCCESS, transaction, tuple(answer))
    return [ask.to_bytes(fingerprint=True), told.to_bytes(fingerprint=True), told.to_bytes(key=b"key")]


def _pcp_seeds() -> list[bytes]:
    mapping = pcp.Mapping(b"n" * 12, "tcp", 4001, 4002, ip_address("11.0.0.1"))
    granted = bytearray(pcp.map_request(ip_address("192.168.1.10"), mapping, 3600))
    announced = bytearray(pcp.announce_request(ip_address("192.168.1.10")))
    for answer in (granted, announced):
        answer[1] |= 0x80
    return [bytes(granted), bytes(announced)]


MESSAGES = (
    Target("stun", ("node.wire.stun:decode",), _stun, _stun_seeds),
    Target("pcp", ("node.wire.pcp:decode",), pcp.decode, _pcp_seeds),
    Target(
        "nat-pmp",
        ("node.wire.natpmp:decode",),
        natpmp.decode,
        lambda: [bytes.fromhex("00800000000000070b000001"), bytes.fromhex("00820000000000070fa10fa200000e10")],
    ),
    Target("identify", ("node.wire.identify:Identify.from_bytes",), identify.Identify.from_bytes, _identify_seeds),
    Target("hop", ("node.wire.relay:HopMessage.from_bytes",), relay.HopMessage.from_bytes, _hop_seeds),
    Target("stop", ("node.wire.relay:StopMessage.from_bytes",), relay.StopMessage.from_bytes, _stop_seeds),
    Target("voucher", (), relay.Voucher.open, _voucher_seeds),
    Target(
        "dcutr",
        ("node.wire.dcutr:HolePunch.from_bytes", "node.wire.protobuf:parse"),
        dcutr.HolePunch.from_bytes,
        lambda: [dcutr.HolePunch(dcutr.HolePunchType.CONNECT, ADDRS).to_bytes()],
    ),
    Target(
        "predict",
        ("node.wire.predict:decode",),
        predict.decode,
        lambda: [predict.Offer(predict.Allocation.KNOWN, IPv4Address("11.0.0.1"), (4001, 4002)).to_bytes()],
    ),
    Target(
        "witness",
        ("node.wire.predict:Witness.from_bytes",),
        predict.Witness.from_bytes,
        lambda: [predict.Witness(key().peer_id(), IPv4Address("11.0.0.1")).to_bytes()],
    ),
    Target(
        "testimony",
        ("node.wire.predict:decode_testimony",),
        predict.decode_testimony,
        lambda: [predict.testimony(seen=True)],
    ),
    Target("autonat", ("node.wire.autonat:decode",), autonat.decode, _autonat_seeds),
    Target(
        "autonat dial-back",
        ("node.wire.autonat:decode_dial_back",),
        autonat.decode_dial_back,
        lambda: [autonat.encode_dial_back(7)],
    ),
    Target(
        "autonat dial-back response",
        ("node.wire.autonat:decode_dial_back_response",),
        autonat.decode_dial_back_response,
        lambda: [autonat.encode_dial_back_response()],
    ),
    Target("autonat v1 dial", ("node.wire.autonat_v1:Dial.from_bytes",), autonat_v1.Dial.from_bytes, _dial_seeds),
    Target(
        "autonat v1 response",
        ("node.wire.autonat_v1:DialResponse.from_bytes",),
        autonat_v1.DialResponse.from_bytes,
        _dialled_seeds,
    ),
    Target("mdns", ("node.wire.mdns:decode",), mdns.decode, lambda: [mdns.encode(ADDRS[:2], key().peer_id())]),
    Target("certificate", (), _certificate, _certificate_seeds),
)

# ── machines ─────────────────────────────────────────────────────────────────────────────────────────────────────────

STATIC, EPHEMERAL = (X25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in (1, 2))


def _noise(initiator: bool) -> Noise:
    return Noise(
        key(), initiator=initiator, static=STATIC, ephemeral=EPHEMERAL, expected=None, muxers=("/yamux/1.0.0",)
    )


def _transcript(one: Any, other: Any) -> tuple[bytes, bytes]:
    """What two machines say to each other until both are silent."""
    forth, back = b"", b""
    while True:
        said, answered = b"".join(one.data_to_send()), b"".join(other.data_to_send())
        if not said and not answered:
            return forth, back
        forth, back = forth + said, back + answered
        if said:
            other.receive_data(said)
        if answered:
            one.receive_data(answered)


def _noise_seeds() -> list[bytes]:
    return list(_transcript(_noise(initiator=True), _noise(initiator=False)))


def _multistream_seeds() -> list[bytes]:
    said = _transcript(multistream.Initiator(["/a/1", "/b/2"]), multistream.Responder({"/b/2"}.__contains__))
    listed = _transcript(multistream.Lister(), multistream.Responder({"/b/2"}.__contains__, lambda: ["/b/2", "/c/3"]))
    return [*said, *listed]


def _yamux_seeds() -> list[bytes]:
    one = Yamux(initiator=True, now=0.0)
    stream = one.open_stream(0.0)
    one.send_data(stream, memoryview(b"x" * 300))
    first = b"".join(one.data_to_send(1 << 16))
    frames = [
        bytes.fromhex(text)
        for text in (
            "000000010000000100000003616263",  # data with SYN
            "000100010000000100000000",  # window update with SYN
            "000100020000000100001000",  # with ACK
            "000100040000000100000000",  # with FIN
            "000100080000000100000001",  # with RST
            "000200010000000000000007",  # ping
            "000200020000000000000007",  # pong
            "000300000000000000000000",  # go away
        )
    ]
    return [first, *frames, b"".join(frames)]


MACHINES = (
    Target(
        "framing",
        ("node.wire.framing:LengthDelimited.receive_data",),
        lambda data: [LengthDelimited(1024).receive_data(piece) for piece in (data,)],
        lambda: [b"\x03abc\x00", b"\xff\x07" + b"x" * 1023],
    ),
    Target(
        "lines",
        ("node.wire.lines:Lines.receive_data",),
        lambda data: [Lines(64).receive_data(piece) for piece in (data,)],
        lambda: [b'{"id":1,"do":"info"}\n'],
    ),
    Target(
        "multistream initiator",
        ("node.wire.multistream:_Negotiation.receive_data",),
        _machine(lambda: multistream.Initiator(["/a/1", "/b/2"])),
        _multistream_seeds,
    ),
    Target(
        "multistream responder",
        (),
        _machine(lambda: multistream.Responder({"/b/2"}.__contains__, lambda: ["/b/2"])),
        _multistream_seeds,
    ),
    Target("multistream lister", (), _machine(multistream.Lister), _multistream_seeds),
    Target(
        "noise initiator",
        ("node.wire.noise:Noise.receive_data", "node.wire.noise:HandshakeState.read_message"),
        _machine(lambda: _noise(initiator=True)),
        _noise_seeds,
    ),
    Target("noise responder", (), _machine(lambda: _noise(initiator=False)), _noise_seeds),
    Target(
        "yamux initiator",
        ("node.wire.yamux:Yamux.receive_data",),
        _yamux(initiator=True),
        _yamux_seeds,
    ),
    Target("yamux responder", (), _yamux(initiator=False), _yamux_seeds),
)


@cache
def _tls_credentials() -> tls.Credentials:
    begin, end = NOW - timedelta(days=1), NOW + timedelta(days=1)
    return tls.Credentials(key(), P256, serial=7, begin=begin, end=end)


def _tls(initiator: bool) -> tls.Tls:
    return tls.Tls(_tls_credentials(), initiator=initiator, now=NOW, muxers=("/yamux/1.0.0",))


def _tls_seeds() -> list[bytes]:
    # Chance is OpenSSL's own: of what was said to another connection only the beginning is taken.
    forth, back = _transcript(_tls(initiator=True), _tls(initiator=False))
    return [forth, back, forth[:100], back[:5]]


def _plaintext_seeds() -> list[bytes]:
    return list(_transcript(Plaintext(key()), Plaintext(key())))


def _mplex(initiator: bool) -> Callable[[bytes], object]:
    def feed(data: bytes) -> None:
        machine = Mplex(initiator=initiator, now=0.0)
        machine.open_stream(0.0)
        for second, piece in enumerate(_pieces(data)):
            machine.receive_data(piece, float(second))
            machine.data_to_send(1 << 16)

    return feed


def _mplex_seeds() -> list[bytes]:
    machine = Mplex(initiator=True, now=0.0)
    machine.send_data(stream := machine.open_stream(0.0), memoryview(b"x" * 300))
    opened = b"".join(machine.data_to_send(1 << 16))
    machine.close_write(stream)
    return [opened, opened + b"".join(machine.data_to_send(1 << 16)), b"\x05\x00", b"\x06\x00"]


def _private(data: bytes) -> None:
    machine = PrivateNetwork(b"k" * 32, b"n" * 24)
    for piece in _pieces(data):
        machine.receive_data(piece)


def _websocket_seeds() -> list[bytes]:
    one, other = WebSocket(initiator=True, host="relay.example"), WebSocket(initiator=False)
    forth, back = _transcript(one, other)
    one.send_data(b"binary")
    return [forth, back, forth + b"".join(one.data_to_send()), back[:20]]


LAYERS = (
    Target("tls responder", ("node.wire.tls:Tls.receive_data",), _machine(lambda: _tls(initiator=False)), _tls_seeds),
    Target("tls initiator", (), _machine(lambda: _tls(initiator=True)), _tls_seeds),
    Target(
        "plaintext",
        ("node.wire.plaintext:Plaintext.receive_data",),
        _machine(lambda: Plaintext(key())),
        _plaintext_seeds,
    ),
    Target("mplex initiator", ("node.wire.mplex:Mplex.receive_data",), _mplex(initiator=True), _mplex_seeds),
    Target("mplex responder", (), _mplex(initiator=False), _mplex_seeds),
    Target(
        "private network",
        ("node.wire.psk:PrivateNetwork.receive_data",),
        _private,
        lambda: [b"n" * 24 + b"encrypted", b"n" * 24],
    ),
    Target("swarm key", (), psk.read_key, lambda: [b"/key/swarm/psk/1.0.0/\n/base16/\n" + b"ab" * 32 + b"\n"]),
    Target(
        "websocket server",
        ("node.wire.websocket:WebSocket.receive_data",),
        _machine(lambda: WebSocket(initiator=False)),
        _websocket_seeds,
    ),
    Target("websocket client", (), _machine(lambda: WebSocket(initiator=True, host="relay.example")), _websocket_seeds),
)


def _resp(data: bytes) -> None:
    reader = resp.Reader()
    for piece in _pieces(data):
        reader.receive_data(piece)


CONTROL = (
    Target(
        "redis commands",
        ("lab.services.resp:Reader.receive_data",),
        _resp,
        lambda: [
            b"*3\r\n$5\r\nRPUSH\r\n$1\r\nk\r\n$2\r\n\r\n\r\n",
            b"PING\r\n*-1\r\n",
            b"*2\r\n$3\r\nGET\r\n$0\r\n\r\n",
        ],
    ),
)

TARGETS = (*NAMES, *MESSAGES, *MACHINES, *LAYERS, *CONTROL)
