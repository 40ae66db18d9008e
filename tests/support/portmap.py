"""The smallest clients of NAT-PMP (RFC 6886), PCP (RFC 6887) and UPnP IGD that can ask a router for a port.

They take whatever makes sockets where the asking host is: `lab.kernel.namespace.Namespace` does. All of them block.
"""

from __future__ import annotations

import os
import re
import socket
import struct
import time
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import Protocol
from urllib.parse import urlsplit

ASK_AGAIN = 1.0
"Seconds until a search is repeated; its answer may take `MX`, a second."
WITHIN = 5.0
"""Seconds for one answer."""
NAT_PMP_PORT = 5351
SSDP = ("239.255.255.250", 1900)
GATEWAY_DEVICE = "urn:schemas-upnp-org:device:InternetGatewayDevice:1"
TRANSPORTS = {"udp": 17, "tcp": 6}


class Place(Protocol):
    """Where sockets can be made."""

    def socket(self, family: int, kind: int, proto: int = 0) -> socket.socket: ...


@dataclass(frozen=True, slots=True)
class Granted:
    """What a router says it has opened."""

    external: str
    port: int
    lifetime: int


class RefusedError(Exception):
    """The router's error, by its number in the protocol."""

    def __init__(self, code: int) -> None:
        super().__init__(f"refused with {code}")
        self.code = code


class _Client:
    def __init__(self, place: Place, own: str, gateway: str) -> None:
        self._place, self._own, self._gateway = place, own, gateway
        self.within = WITHIN

    def _asked(self, request: bytes) -> bytes:
        with self._place.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(self.within)
            asking.connect((self._gateway, NAT_PMP_PORT))
            asking.send(request)
            return asking.recv(1100)


class NatPmp(_Client):
    """RFC 6886 §3.3; error 3 is a network failure."""

    def map(self, transport: str, port: int, external: int, lifetime: int) -> Granted:
        """Ask for a port; a lifetime of 0 gives it back."""
        external_address = self._asked(b"\0\0")
        _succeeded(struct.unpack_from("!H", external_address, 2)[0])
        opcode = {"udp": 1, "tcp": 2}[transport]
        request = struct.pack("!BBHHHI", 0, opcode, 0, port, external, lifetime)
        answer = self._asked(request)
        version, opcode, code, _, inner, outer, granted = struct.unpack("!BBHIHHI", answer)
        _succeeded(code)
        assert (version, opcode & 0x80, inner) == (0, 0x80, port)
        return Granted(socket.inet_ntoa(external_address[8:12]), outer, granted)

    def unmap(self, transport: str, port: int, external: int) -> None:
        """Give a port back."""
        self.map(transport, port, 0, 0)


class Pcp(_Client):
    """RFC 6887 §11, the MAP opcode; error 8 is no resources. The nonce makes renewing and deleting possible."""

    def __init__(self, place: Place, own: str, gateway: str) -> None:
        super().__init__(place, own, gateway)
        self._nonce = os.urandom(12)

    def map(self, transport: str, port: int, external: int, lifetime: int) -> Granted:
        """Ask for a port; a lifetime of 0 gives it back."""
        head = struct.pack("!BBHI", 2, 1, 0, lifetime) + _mapped(self._own)
        body = self._nonce + struct.pack("!B3xHH", TRANSPORTS[transport], port, external) + _mapped("0.0.0.0")  # noqa: S104
        answer = self._asked(head + body)
        version, opcode, code, granted = struct.unpack_from("!BBxBI", answer)
        _succeeded(code)
        assert (version, opcode, answer[24:36]) == (2, 0x81, self._nonce)
        return Granted(socket.inet_ntoa(answer[56:60]), struct.unpack_from("!H", answer, 42)[0], granted)

    def unmap(self, transport: str, port: int, external: int) -> None:
        """Give a port back."""
        self.map(transport, port, 0, 0)


class Upnp(_Client):
    """The service WANIPConnection; error 501 is that the action failed."""

    def __init__(self, place: Place, own: str, gateway: str) -> None:
        super().__init__(place, own, gateway)
        self._address = (gateway, 0)
        self._service, self._control = "", ""

    def map(self, transport: str, port: int, external: int, lifetime: int) -> Granted:
        """Ask for a port; a lifetime of 0 is the longest that there is."""
        self._discover()
        address = re.search(r"<NewExternalIPAddress>(.*?)<", self._call("GetExternalIPAddress"))
        self._call(
            "AddPortMapping",
            NewRemoteHost="",
            NewExternalPort=external,
            NewProtocol=transport.upper(),
            NewInternalPort=port,
            NewInternalClient=self._own,
            NewEnabled=1,
            NewPortMappingDescription="test",
            NewLeaseDuration=lifetime,
        )
        assert address is not None
        return Granted(address[1], external, lifetime)

    def unmap(self, transport: str, port: int, external: int) -> None:
        """Give a port back."""
        self._call("DeletePortMapping", NewRemoteHost="", NewExternalPort=external, NewProtocol=transport.upper())

    def _discover(self) -> None:
        request = f'M-SEARCH * HTTP/1.1\r\nHOST: {SSDP[0]}:{SSDP[1]}\r\nMAN: "ssdp:discover"\r\nMX: 1\r\n'
        with self._place.socket(socket.AF_INET, socket.SOCK_DGRAM) as searching:
            answer = self._answer(searching, f"{request}ST: {GATEWAY_DEVICE}\r\n\r\n".encode()).decode()
        location = re.search(r"(?im)^location:\s*(\S+)", answer)
        assert location is not None
        url = urlsplit(location[1])
        assert url.hostname is not None
        assert url.port is not None
        self._address = (url.hostname, url.port)
        device = self._http("GET", url.path)
        service = re.search(r"(urn:[\w:-]+:WANIPConnection:\d)</serviceType>.*?<controlURL>(.*?)<", device, re.DOTALL)
        assert service is not None
        self._service, self._control = service[1], service[2]

    def _answer(self, searching: socket.socket, request: bytes) -> bytes:
        """Ask more than once, as UPnP has it: a router opens its door for pages before it listens to searches."""
        until = time.monotonic() + self.within
        searching.settimeout(min(self.within, ASK_AGAIN))
        while True:
            searching.sendto(request, SSDP)
            try:
                return searching.recv(2048)
            except TimeoutError:
                if time.monotonic() >= until:
                    raise

    def _call(self, action: str, **arguments: object) -> str:
        inner = "".join(f"<{name}>{value}</{name}>" for name, value in arguments.items())
        body = (
            '<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"'
            ' s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body>'
            f'<u:{action} xmlns:u="{self._service}">{inner}</u:{action}></s:Body></s:Envelope>'
        )
        answer = self._http("POST", self._control, body, {"SOAPAction": f'"{self._service}#{action}"'})
        if error := re.search(r"<errorCode>(\d+)<", answer):
            raise RefusedError(int(error[1]))
        return answer

    def _http(self, method: str, path: str, body: str | None = None, headers: dict[str, str] | None = None) -> str:
        with self._place.socket(socket.AF_INET, socket.SOCK_STREAM) as sock:
            sock.settimeout(self.within)
            sock.connect(self._address)
            connection = HTTPConnection(*self._address)
            connection.sock = sock
            connection.request(method, path, body, headers or {})
            with connection.getresponse() as response:
                return response.read().decode()


CLIENTS: dict[str, type[NatPmp | Pcp | Upnp]] = {"nat-pmp": NatPmp, "pcp": Pcp, "upnp": Upnp}


def _succeeded(code: int) -> None:
    if code:
        raise RefusedError(code)


def _mapped(address: str) -> bytes:
    """An IPv4 address as PCP has it (RFC 4291 §2.5.5.2)."""
    return bytes(10) + b"\xff\xff" + socket.inet_aton(address)
