"""ICMP queries' side of a probe: a token is the data of an echo request, an identifier what a port is elsewhere.

    inner end (identifier i)  ── request, i ──▶  NAT  ── request, j ──▶  vantage    heard there from (public address, j)
                              ◀── reply, i ────  NAT  ◀── reply, j ────  its kernel the token is answered

Remotes have addresses only, and nothing that nobody asked for comes in (RFC 5508 §3).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

from lab.observe.nat import Address
from lab.run.probes import DEADLINE, TOKEN, End, Probe, ProbeError, bind
from lab.run.versions import V4, Space, Version

LONGEST: Final = 60 + 8 + TOKEN
"bytes of a packet of ours with all options that IPv4 can have"
_FIRST_IDENTIFIER: Final = 2000


class IcmpProbe(Probe):
    """Tokens in echo requests."""

    protocol = "ICMP"
    kind = socket.SOCK_RAW

    def __init__(self, version: Version = V4) -> None:
        super().__init__(version)
        self._answered: set[bytes] = set()

    async def answered(self, token: bytes) -> None:
        """Wait for the reply to a token to be back at the end that sent it. Raises `ProbeError`."""
        try:
            async with asyncio.timeout(DEADLINE):
                while token not in self._answered:
                    await self._hear_or_resend([token])
        except TimeoutError:
            raise ProbeError("the replies do not come back") from None

    def answer(self, end: End, token: bytes) -> None:
        """An end has got the reply to its token."""
        if token in self._sent and self._sent[token][0] is end:
            self._answered.add(token)
            self._news.set()

    def _open(self, space: Space, address: Address) -> End:
        return _IcmpEnd(self, space, address)

    def _free_port(self, space: Space, address: str) -> int:
        """Identifiers far apart, so that none is the next of another."""
        identifier = _FIRST_IDENTIFIER + 997 * len(self._ports)
        self._ports.add(identifier)
        return identifier


class _IcmpEnd(End):
    def __init__(self, probe: IcmpProbe, space: Space, address: Address) -> None:
        self._probe = probe
        self.address = address
        self._version = probe.version
        self._socket = self._version.new_socket(space, socket.SOCK_RAW, self._version.icmp)
        self._socket.setblocking(False)
        bind(self._socket, (address[0], 0))
        asyncio.get_running_loop().add_reader(self._socket, self._receive)

    def send(self, to: Address) -> bytes:
        token = self._probe.sending(self, to)
        self.again(token, to)
        return token

    def again(self, token: bytes, to: Address) -> None:
        try:
            self._socket.sendto(_request(self._version.echo_request, self.address[1], token), (to[0], 0))
        except OSError as error:
            raise ProbeError(f"ICMP to {to[0]}: {error.strerror}") from error

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _receive(self) -> None:
        try:
            while True:
                packet, (source, _) = self._socket.recvfrom(LONGEST)
                message = self._version.segment(packet)
                kind, identifier = struct.unpack_from("!B3xH", message)
                # Every raw socket of a namespace hears all of its ICMP.
                if kind == self._version.echo_reply and identifier == self.address[1]:
                    self._probe.answer(self, message[8:])
                elif kind == self._version.echo_request and self.address[0] != self._version.anywhere:
                    self._probe.heard(self, message[8:], (source, identifier))
        except BlockingIOError:
            return


def _request(kind: int, identifier: int, token: bytes) -> bytes:
    """An echo request; of ICMPv6's checksum the kernel makes its own."""
    unsummed = struct.pack("!BBHHH", kind, 0, 0, identifier, 1) + token
    return unsummed[:2] + struct.pack("!H", _checksum(unsummed)) + unsummed[4:]


def _checksum(message: bytes) -> int:
    """RFC 1071's; the message has an even length."""
    total: int = sum(struct.unpack(f"!{len(message) // 2}H", message))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
