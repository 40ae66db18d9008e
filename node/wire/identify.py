"""identify: who a peer is, where it listens, what it speaks, and from where it sees us.

The opener of a `/ipfs/id/1.0.0` stream receives the message and the end of the stream; on `/ipfs/id/push/1.0.0` the
opener sends it, possibly with only what has changed. The specification does not say so, but all implementations put the
length before the message, and go splits one of more than 2 KiB into up to ten: read to the end and `merge`.

Sizes: rust reads at most 4096 bytes and a single message, js 8192, go 8192 a message. We stay under the lowest when
writing and accept the highest.

Spec: https://github.com/libp2p/specs/blob/master/identify/README.md
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from node.errors import DecodeError, LocalProtocolError
from node.names.keys import PublicKey
from node.names.multiaddr import Multiaddr, parse_known
from node.names.varint import Buffer
from node.wire.protobuf import bounded, parse
from node.wire.schema import identify_pb2

PROTOCOL = "/ipfs/id/1.0.0"
PUSH_PROTOCOL = "/ipfs/id/push/1.0.0"
MAX_SENT = 4096  # bytes
MAX_MESSAGE = 8192  # bytes
MAX_MESSAGES = 10
MAX_ADDRS = 500
MAX_PROTOCOLS = 1024


@dataclass(frozen=True, slots=True)
class Identify:
    """One message; what was not sent is None or empty."""

    public_key: PublicKey | None = None
    listen_addrs: tuple[Multiaddr, ...] = ()
    "Claimed, unless the signed peer record says the same; addresses of unknown protocols are left out."
    protocols: tuple[str, ...] = ()
    observed_addr: Multiaddr | None = None
    "The sender's view of the receiver's address."
    protocol_version: str | None = None
    agent_version: str | None = None
    signed_peer_record: bytes | None = None
    "An envelope, not yet opened."

    def to_bytes(self) -> bytes:
        """The message without its length; LocalProtocolError beyond what every implementation would read."""
        data: bytes = identify_pb2.Identify(
            public_key=None if self.public_key is None else self.public_key.to_bytes(),
            listen_addrs=[addr.to_bytes() for addr in self.listen_addrs],
            protocols=self.protocols,
            observed_addr=None if self.observed_addr is None else self.observed_addr.to_bytes(),
            protocol_version=self.protocol_version,
            agent_version=self.agent_version,
            signed_peer_record=self.signed_peer_record,
        ).SerializeToString()
        if len(data) > MAX_SENT:
            raise LocalProtocolError(f"identify message of {len(data)} bytes, at most {MAX_SENT} allowed")
        return data

    @classmethod
    def from_bytes(cls, data: Buffer) -> Identify:
        """Parse one message; raises DecodeError."""
        message = parse(identify_pb2.Identify(), data, MAX_MESSAGE)
        bounded("listen addresses", message.listen_addrs, MAX_ADDRS)
        bounded("protocols", message.protocols, MAX_PROTOCOLS)
        observed = parse_known([message.observed_addr])
        return cls(
            public_key=PublicKey.from_bytes(message.public_key) if message.HasField("public_key") else None,
            listen_addrs=parse_known(message.listen_addrs),
            protocols=tuple(message.protocols),
            observed_addr=observed[0] if observed else None,
            protocol_version=message.protocol_version if message.HasField("protocol_version") else None,
            agent_version=message.agent_version if message.HasField("agent_version") else None,
            signed_peer_record=message.signed_peer_record if message.HasField("signed_peer_record") else None,
        )


def merge(messages: Iterable[Identify]) -> Identify:
    """One message of the parts: of single fields the last counts, lists are joined; DecodeError beyond the bounds."""
    whole = Identify()
    for count, part in enumerate(messages, start=1):
        if count > MAX_MESSAGES:
            raise DecodeError(f"identify in more than {MAX_MESSAGES} messages")
        whole = _join(whole, part)
        bounded("listen addresses", whole.listen_addrs, MAX_ADDRS)
        bounded("protocols", whole.protocols, MAX_PROTOCOLS)
    return whole


def _join(first: Identify, then: Identify) -> Identify:
    return Identify(
        public_key=then.public_key or first.public_key,
        listen_addrs=first.listen_addrs + then.listen_addrs,
        protocols=first.protocols + then.protocols,
        observed_addr=then.observed_addr or first.observed_addr,
        protocol_version=_last(first.protocol_version, then.protocol_version),
        agent_version=_last(first.agent_version, then.agent_version),
        signed_peer_record=then.signed_peer_record or first.signed_peer_record,
    )


def _last(first: str | None, then: str | None) -> str | None:
    return first if then is None else then
