"""What can go wrong in the node, as types.

A machine raises `LocalProtocolError` where we misused it and `RemoteProtocolError` where the peer broke the protocol;
everything else is an event of the network. All carry a message that names the peer, address or protocol at fault.
"""

from __future__ import annotations


class NodeError(Exception):
    """Anything the node reports to whoever asked it to do something."""


class ConfigError(NodeError):
    """A flag or a configuration value that cannot be used."""


class ProtocolError(NodeError):
    """A protocol was broken: see the two subclasses for by whom."""


class LocalProtocolError(ProtocolError):
    """Our own code called a machine in a way its protocol does not allow."""


class RemoteProtocolError(ProtocolError):
    """The peer sent bytes that its protocol does not allow."""


class DecodeError(RemoteProtocolError, ValueError):
    """Bytes or text that are not a varint, multihash, multiaddr, key, peer id, envelope or message."""


class NegotiationError(NodeError):
    """No protocol in common, or the peer refused all that were proposed."""


class SecurityError(NodeError):
    """The peer could not prove to be whom we wanted: wrong peer id, bad signature, failed decryption."""


class PeerIdMismatch(SecurityError):
    """The peer proved to be somebody else than the one that was dialled."""


class ConnectionClosed(NodeError):
    """The connection has ended; the message says why."""


class StreamReset(NodeError):
    """The stream was reset, by the peer or by us."""


class StreamClosed(NodeError):
    """Writing to a stream whose writing side is closed, or reading past its end where more was required."""


class DialError(NodeError):
    """No address of the peer could be reached; the message lists each address with its reason."""


class DialBackoff(DialError):
    """Not dialled: the last attempts failed and the time for another has not come."""


class Gated(NodeError):
    """Not allowed by an address filter."""


class LimitExceeded(NodeError):
    """A bound of ours was reached: connections, streams, reservations, bytes."""


class RelayError(NodeError):
    """A relay refused or failed; `status` is the wire's status name, e.g. `NO_RESERVATION`."""

    def __init__(self, status: str, message: str) -> None:
        super().__init__(f"{status}: {message}")
        self.status = status


class DeadlineExceeded(NodeError):
    """The answer did not come in time."""
