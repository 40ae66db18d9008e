"""UPnP's Internet Gateway Device: found by SSDP, described in XML, asked by SOAP.

async-upnp-client has the formats (XML by defusedxml). The connections are ours, because what is on the other side is
whoever answered a multicast: only the default gateway is believed, and asked nothing outside itself; nothing is
redirected, and a page has a bound.

Facts: routers want an empty `NewRemoteHost` and refuse 0.0.0.0; some grant only leases without an end (error 725); a
port that another host holds is error 718, and entries that are gone are told by error 714.
"""

from __future__ import annotations

import asyncio
import random
from ipaddress import IPv4Address, ip_address
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import aiohttp
from async_upnp_client.client import UpnpRequester
from async_upnp_client.client_factory import UpnpFactory
from async_upnp_client.const import HttpRequest, HttpResponse
from async_upnp_client.exceptions import UpnpActionError, UpnpError
from async_upnp_client.search import SsdpSearchListener

from node.logic.portmap import FOREVER, Granted, Port, Protocol
from node.protocols.portmap_udp import RouterRefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from async_upnp_client.client import UpnpService
    from async_upnp_client.utils import CaseInsensitiveDict

    from node.names.multiaddr import IPAddress

DEVICES: Final = tuple(f"urn:schemas-upnp-org:device:InternetGatewayDevice:{version}" for version in (2, 1))
SERVICES: Final = (
    "urn:schemas-upnp-org:service:WANIPConnection:2",
    "urn:schemas-upnp-org:service:WANIPConnection:1",
    "urn:schemas-upnp-org:service:WANPPPConnection:1",
)
SEARCHES: Final = (0.5, 1.0, 2.0)
"""Seconds to wait after each search: multicast gets lost."""
PAGE: Final = 256 * 1024
"""Bytes of a description or an answer."""
TIMEOUT: Final = 5.0
"""Seconds for one page."""
OTHER_PORTS: Final = 4
"""Outer ports that are tried when another host holds ours."""
DESCRIPTION: Final = "libp2p"
MALFORMED: Final = (UpnpError, ValueError, LookupError)
"""What the library makes of pages that are not as they should be; KeyError where one names what it does not have."""
_NO_SUCH_ENTRY, _CONFLICT, _ONLY_PERMANENT = 714, 718, 725


class _Requester(UpnpRequester):
    """HTTP to one router."""

    def __init__(self, router: str, own: str) -> None:
        self._router = router
        self._own = own

    async def async_http_request(self, http_request: HttpRequest) -> HttpResponse:
        """Ask for one page; UpnpError."""
        if urlsplit(http_request.url).hostname != self._router:
            raise UpnpError(f"{http_request.url} is not a page of the router at {self._router}")
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        connector = aiohttp.TCPConnector(local_addr=(self._own, 0))
        try:
            async with (
                aiohttp.ClientSession(connector=connector, timeout=timeout) as session,
                session.request(
                    http_request.method,
                    http_request.url,
                    headers=dict(http_request.headers or {}),
                    data=http_request.body,
                    allow_redirects=False,
                ) as response,
            ):
                body = bytearray()
                async for piece in response.content.iter_chunked(PAGE):
                    body += piece
                    if len(body) > PAGE:
                        raise UpnpError(f"{http_request.url}: more than {PAGE} bytes")
                return HttpResponse(response.status, response.headers, body.decode("utf-8", "replace"))
        except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
            raise UpnpError(f"{http_request.url}: {error or type(error).__name__}") from error


class UpnpRouter:
    """A gateway, asked by UPnP."""

    protocol = Protocol.UPNP

    def __init__(self, gateway: IPAddress, own: IPv4Address) -> None:
        self._gateway = str(gateway)
        self._own = str(own)
        self._factory = UpnpFactory(_Requester(self._gateway, self._own), non_strict=True)
        self._service: UpnpService | None = None

    async def probe(self) -> None:
        """Return when it has answered and said what it can; RouterRefusedError, TimeoutError."""
        location = await self._search()
        try:
            device = await self._factory.async_create_device(location)
        except MALFORMED as error:
            raise RouterRefusedError(f"UPnP: {error!r}") from error
        services = {service.service_type: service for service in device.all_services}
        self._service = next((services[kind] for kind in SERVICES if kind in services), None)
        if self._service is None:
            raise RouterRefusedError("UPnP: the router has no WAN connection to map ports of")

    async def map(self, port: Port, hint: Granted | None, lifetime: int) -> Granted:
        """Ask for a port, or for it to be kept; RouterRefusedError."""
        numbers = [hint.number if hint is not None else port.number]
        numbers += [random.randint(1024, 65535) for _ in range(OTHER_PORTS)]
        ip = await self._external()
        for number in numbers:
            try:
                return Granted(ip, number, await self._add(port, number, lifetime))
            except UpnpActionError as error:
                if error.error_code != _CONFLICT:
                    raise RouterRefusedError(f"UPnP: {_why(error)}") from error
        raise RouterRefusedError(f"UPnP: other hosts hold {len(numbers)} ports that we asked for")

    async def _add(self, port: Port, number: int, lifetime: int) -> float:
        """Add one entry and return its lifetime; UpnpActionError."""
        for seconds in (lifetime, 0):
            try:
                await self._call(
                    "AddPortMapping",
                    **_entry(port, number),
                    NewInternalPort=port.number,
                    NewInternalClient=self._own,
                    NewEnabled=True,
                    NewPortMappingDescription=DESCRIPTION,
                    NewLeaseDuration=seconds,
                )
            except UpnpActionError as error:
                if error.error_code != _ONLY_PERMANENT or not seconds:
                    raise
            else:
                return float(seconds or FOREVER)
        raise AssertionError("the second time there is no lease to be refused")

    async def unmap(self, port: Port, granted: Granted) -> None:
        """Give a port back; one that is gone already is as good."""
        try:
            await self._call("DeletePortMapping", **_entry(port, granted.number))
        except UpnpActionError as error:
            if error.error_code != _NO_SUCH_ENTRY:
                raise RouterRefusedError(f"UPnP: {_why(error)}") from error

    async def holds(self, port: Port, granted: Granted) -> bool:
        """Whether it still has the port open for us."""
        try:
            entry = await self._call("GetSpecificPortMappingEntry", **_entry(port, granted.number))
        except UpnpActionError:
            return False
        is_ours = str(entry.get("NewInternalClient")) == self._own and entry.get("NewInternalPort") == port.number
        return is_ours and await self._external() == granted.ip

    def announced(self, data: bytes) -> None:
        """UPnP's routers announce themselves elsewhere."""

    async def _external(self) -> IPAddress:
        try:
            told = await self._call("GetExternalIPAddress")
            return ip_address(str(told.get("NewExternalIPAddress")))
        except UpnpActionError as error:
            raise RouterRefusedError(f"UPnP: {_why(error)}") from error
        except ValueError as error:
            raise RouterRefusedError("UPnP: the router has no outer address") from error

    async def _call(self, action: str, **arguments: Any) -> Mapping[str, Any]:
        assert self._service is not None, "probed before it is asked"
        if not self._service.has_action(action):
            raise RouterRefusedError(f"UPnP: the router has no {action}")
        try:
            return await self._service.action(action).async_call(**arguments)
        except UpnpActionError:
            raise
        except MALFORMED as error:
            raise RouterRefusedError(f"UPnP: {action}: {error!r}") from error

    async def _search(self) -> str:
        """The place of the router's description; TimeoutError."""
        found: asyncio.Future[str] = asyncio.get_running_loop().create_future()

        def heard(headers: CaseInsensitiveDict) -> None:
            location = str(headers.get_lower("location", ""))
            if not found.done() and urlsplit(location).hostname == self._gateway:
                found.set_result(location)

        listeners = [
            SsdpSearchListener(callback=heard, source=(self._own, 0), search_target=device, timeout=1)
            for device in DEVICES
        ]
        try:
            for listener in listeners:
                await listener.async_start()
            for timeout in SEARCHES:
                for listener in listeners:
                    listener.async_search()
                done, _ = await asyncio.wait([found], timeout=timeout)
                if done:
                    return found.result()
            raise TimeoutError("the router does not answer")
        finally:
            found.cancel()
            for listener in listeners:
                listener.async_stop()


def _entry(port: Port, number: int) -> dict[str, object]:
    return {"NewRemoteHost": "", "NewExternalPort": number, "NewProtocol": port.transport.upper()}


def _why(error: UpnpActionError) -> str:
    return f"{error.error_desc or 'error'} ({error.error_code})"
