"""TCP: listening, dialling from the port we listen on, and connections that push their bytes.

All sockets carry SO_REUSEADDR and SO_REUSEPORT, so that dials can leave from the listening port: only then is the
address that others observe the one they can reach us at, and only then can a hole be punched. When both sides dial each
other so at the same time, the kernel makes one connection of the two dials (simultaneous open, RFC 9293 §3.5): both
ends come back from `dial`, none from a listener. Hence nothing here knows who is client or server.

A second dial of the same pair of addresses fails with EADDRNOTAVAIL while the first is under way or open.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import struct
from collections.abc import Callable
from typing import TypeAlias, cast

from node.errors import ConfigError, ConnectionClosed, DeadlineExceeded, DialError, LocalProtocolError, StreamClosed
from node.names.multiaddr import Multiaddr
from node.names.varint import Buffer
from node.net.stream import READ_SIZE, RawConnection, Sink

__all__ = ["Listener", "RawConnection", "TcpConnection", "TcpDialError", "TcpTransport"]

BACKLOG = 128
# One read of the socket. All connections of a transport share it: what arrives is handed on before the next read.
# Four of Noise's largest messages, so that bulk data tends to arrive in whole ones.
RECEIVE_BUFFER = 4 * 65537
# Received and not yet read, in pull mode: a few handshake messages.
MAX_BUFFERED = 256 * 1024
# Queued for the socket before `write` waits.
WRITE_HIGH_WATER = 256 * 1024
LINGER = 0.5
# Of linux/tcp.h, struct tcp_info: tcpi_last_ack_recv, milliseconds, and tcpi_notsent_bytes.
_NOT_AT_ALL = struct.pack("ii", 1, 0)  # struct linger
_TCP_INFO = struct.Struct("=56xI84xI")

SockAddr: TypeAlias = tuple[str, int] | tuple[str, int, int, int]

# A source port that is in use on this path is no reason not to dial, unless the caller punches.
_SOURCE_ERRORS = (errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EINVAL, errno.EACCES)


class TcpDialError(DialError):
    """One TCP dial failed; `errno` is the system's number for why."""

    def __init__(self, addr: Multiaddr, error: OSError) -> None:
        super().__init__(f"{addr}: {error.strerror or error}")
        self.errno = error.errno


class TcpConnection(asyncio.BufferedProtocol):
    """An open TCP connection; implements `node.net.stream.RawConnection`."""

    local: Multiaddr
    remote: Multiaddr

    def __init__(
        self,
        buffer: memoryview,
        on_open: Callable[[TcpConnection], None] | None = None,
        remote: Multiaddr | None = None,
    ) -> None:
        if remote is not None:
            self.remote = remote
        self.bytes_in = self.bytes_out = 0
        self._receive_buffer = buffer
        self._on_open = on_open
        self._transport: asyncio.Transport
        self._loop = asyncio.get_running_loop()
        self._sink: Sink | None = None
        self._buffered = bytearray()  # at most MAX_BUFFERED and one read
        self._finished = False  # our direction
        self._paused = False
        self._discarding = False
        self._ended: asyncio.Future[None] = self._loop.create_future()  # the peer's direction
        self._lost: asyncio.Future[None] = self._loop.create_future()
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._writers: list[asyncio.Future[None]] = []

    def __repr__(self) -> str:
        return f"<TcpConnection {self.local} to {self.remote}>"

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WRITE_HIGH_WATER)
        self.local = _multiaddr(transport.get_extra_info("sockname"))
        peer = transport.get_extra_info("peername")
        if peer is None:  # gone between accept and now
            self._transport.abort()
            return
        self.remote = _multiaddr(peer)
        if self._on_open is not None:
            self._on_open(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._receive_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.bytes_in += nbytes
        data = self._receive_buffer[:nbytes]
        if self._sink is not None:
            self._sink.data_received(data)
            return
        if self._discarding:
            return
        self._buffered += data
        if len(self._buffered) >= MAX_BUFFERED:
            self._transport.pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool:
        self._end()
        if self._sink is not None:
            self._sink.eof_received()
        return True  # our direction stays open

    def connection_lost(self, exc: Exception | None) -> None:
        self._error = exc
        self._end()
        self._lost.set_result(None)
        self._wake_writers()
        if self._sink is not None:
            self._sink.connection_lost(exc)

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self._wake_writers()
        if self._sink is not None:
            self._sink.resume_writing()

    # --- push

    @property
    def writable(self) -> bool:
        """Whether `send` is welcome."""
        return not self._paused and not self._transport.is_closing()

    def push_to(self, sink: Sink) -> None:
        """Give all that arrives from now on, and what is buffered, to `sink`."""
        self._sink = sink
        buffered, self._buffered = self._buffered, bytearray()
        if buffered:
            sink.data_received(memoryview(buffered))
        if self._lost.done():
            sink.connection_lost(self._error)
            return
        if self._ended.done():
            sink.eof_received()
        self._transport.resume_reading()

    def send(self, data: Buffer) -> None:
        """Queue `data` without waiting; nothing happens after the end."""
        if not self._transport.is_closing() and not self._finished:
            self.bytes_out += len(data)
            self._transport.write(data)

    def is_taking(self, within: float) -> bool:
        """Whether something waits to be sent, and the other end took a part of it in the last `within` seconds."""
        sock = self._transport.get_extra_info("socket")
        if self._transport.is_closing() or sock is None:
            return False
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO.size)
        if len(info) < _TCP_INFO.size:
            return False
        since_ack, unsent = _TCP_INFO.unpack(info)
        return bool(unsent) and since_ack <= within * 1000

    def abort(self) -> None:
        """Close at once."""
        self._transport.abort()

    def abandon(self) -> None:
        """Close at once, by RST: the system keeps nothing.

        Of an ordinary end it would keep the FIN that nobody acknowledges, for minutes, and a punch needs the very pair
        of addresses: no SYN leaves from it and none is answered.
        """
        sock = self._transport.get_extra_info("socket")
        if sock is not None and not self._transport.is_closing():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NOT_AT_ALL)
        self._transport.abort()

    # --- pull

    async def read(self, max_bytes: int = READ_SIZE) -> bytes:
        """Return some bytes, b"" at the end; raises ConnectionClosed if the connection broke."""
        while not self._buffered and not self._ended.done():
            await self._readable()
        if not self._buffered and self._error is not None:
            raise ConnectionClosed(f"{self.remote}: {self._error}")
        data = bytes(memoryview(self._buffered)[:max_bytes])
        del self._buffered[: len(data)]
        if len(self._buffered) < MAX_BUFFERED and not self._transport.is_closing():
            self._transport.resume_reading()
        return data

    def unread(self, data: bytes) -> None:
        """Return `data` from the next reads."""
        self._buffered[:0] = data

    async def write(self, data: Buffer) -> None:
        """Send all of `data`; raises ConnectionClosed."""
        self._check_open()
        self.send(bytes(data))
        await self._until_writable()

    async def close_write(self) -> None:
        """Send FIN after what is queued; raises ConnectionClosed where the peer has reset the connection meanwhile."""
        if self._transport.is_closing() or self._finished:
            return
        self._finished = True
        try:
            self._transport.write_eof()
        except OSError as error:
            raise ConnectionClosed(f"connection to {self.remote} was lost: {error.strerror}") from error

    async def close(self) -> None:
        """Send what is queued and a FIN, and close once the peer has ended too, after LINGER at the latest.

        Closing a socket while the peer still sends makes the kernel answer by RST, which takes our last bytes with it.
        """
        self._discarding = True
        self._buffered.clear()
        try:
            if not self._transport.is_closing():
                self._transport.resume_reading()
                with contextlib.suppress(ConnectionClosed):  # there is nobody left to take leave of
                    await self.close_write()
                    await asyncio.wait({self._ended}, timeout=LINGER)
        finally:
            self._transport.abort()
        await asyncio.wait({self._lost})

    def reset(self) -> None:
        """Close at once."""
        self.abort()

    def _check_open(self) -> None:
        if self._transport.is_closing():
            raise ConnectionClosed(f"{self.remote}: {self._error or 'closed'}")
        if self._finished:
            raise StreamClosed(f"{self.remote}: closed for writing")

    async def _readable(self) -> None:
        if self._reader is not None or self._sink is not None:
            raise LocalProtocolError(f"two readers of {self}")
        self._reader = self._loop.create_future()
        try:
            await self._reader
        finally:
            self._reader = None

    async def _until_writable(self) -> None:
        while self._paused and not self._lost.done():
            waiter = self._loop.create_future()
            self._writers.append(waiter)
            await waiter
        if self._lost.done():
            raise ConnectionClosed(f"{self.remote}: {self._error or 'closed'}")

    def _end(self) -> None:
        if not self._ended.done():
            self._ended.set_result(None)
        self._wake_reader()

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _wake_writers(self) -> None:
        writers, self._writers = self._writers, []
        for waiter in writers:
            if not waiter.done():
                waiter.set_result(None)


class Listener:
    """An open listener."""

    def __init__(self, addr: Multiaddr, server: asyncio.Server) -> None:
        self.addr = addr
        """The address bound, with the port in use; a wildcard as it was asked for."""
        self._server = server

    async def close(self) -> None:
        """Accept no more; connections that were accepted stay."""
        self._server.close()


class TcpTransport:
    """Listens and dials; implements `node.net.transport.Transport`."""

    def __init__(self) -> None:
        self._buffer = memoryview(bytearray(RECEIVE_BUFFER))

    async def listen(self, addr: Multiaddr, on_connection: Callable[[RawConnection], None]) -> Listener:
        """Bind `addr` (`/ip4|ip6/…/tcp/…`, port 0 for any); raises ConfigError where that is not possible."""
        try:
            with contextlib.ExitStack() as stack:
                family, sockaddr = _sockaddr(addr)
                sock = stack.enter_context(_socket(family))
                if family == socket.AF_INET6:
                    sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                sock.bind(sockaddr)
                loop = asyncio.get_running_loop()
                server = await loop.create_server(
                    lambda: TcpConnection(self._buffer, on_connection), sock=sock, backlog=BACKLOG
                )
                stack.pop_all()
        except OSError as error:
            raise ConfigError(f"cannot listen on {addr}: {error.strerror or error}") from error
        return Listener(_multiaddr(sock.getsockname()), server)

    async def dial(
        self, addr: Multiaddr, *, source: Multiaddr | None = None, strict_source: bool = False, timeout: float = 15.0
    ) -> RawConnection:
        """Connect to `addr`, from the address and port of `source` if given.

        Where the source cannot be used for this path, another port is taken, unless `strict_source`. Raises
        TcpDialError with the system's errno, or DeadlineExceeded.
        """
        try:
            async with asyncio.timeout(timeout):
                return await self._dial(addr, source, strict_source)
        except TimeoutError as error:
            raise DeadlineExceeded(f"{addr}: no answer within {timeout} s") from error

    async def _dial(self, addr: Multiaddr, source: Multiaddr | None, strict: bool) -> RawConnection:
        if source is not None:
            try:
                return await self._open(addr, source)
            except TcpDialError as error:
                if strict or error.errno not in _SOURCE_ERRORS:
                    raise
        return await self._open(addr, None)

    async def _open(self, addr: Multiaddr, source: Multiaddr | None) -> RawConnection:
        loop = asyncio.get_running_loop()
        with contextlib.ExitStack() as stack:
            try:
                family, sockaddr = _sockaddr(addr)
                sock = stack.enter_context(_socket(family))
                if source is not None:
                    _bind(sock, family, source)
                await _connect(sock, sockaddr)
                if sock.getsockname() == sock.getpeername():
                    # Dialling our own listening port from itself succeeds: the kernel opens it simultaneously.
                    raise OSError(errno.EADDRNOTAVAIL, "connected to itself")
            except OSError as error:
                raise TcpDialError(addr, error) from error
            _, connection = await loop.create_connection(lambda: TcpConnection(self._buffer, remote=addr), sock=sock)
            stack.pop_all()
        return connection


def _socket(family: socket.AddressFamily) -> socket.socket:
    # The protocol is named because asyncio sets TCP_NODELAY only where it is.
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    return sock


async def _connect(sock: socket.socket, sockaddr: SockAddr) -> None:
    try:
        await asyncio.get_running_loop().sock_connect(sock, sockaddr)
    except OSError as error:
        # asyncio writes "Connect call failed" over the system's words.
        raise OSError(error.errno, os.strerror(error.errno or 0)) from error


def _bind(sock: socket.socket, family: socket.AddressFamily, source: Multiaddr) -> None:
    source_family, sockaddr = _sockaddr(source)
    if source_family != family:
        raise OSError(errno.EADDRNOTAVAIL, f"{os.strerror(errno.EADDRNOTAVAIL)}: {source} is of another IP version")
    sock.bind(sockaddr)


def _sockaddr(addr: Multiaddr) -> tuple[socket.AddressFamily, SockAddr]:
    ip, port = addr.ip, addr.port
    if ip is None or port is None or "tcp" not in addr:
        raise OSError(errno.EAFNOSUPPORT, "not an IP address and a TCP port")
    if ip.version == 4:
        return socket.AF_INET, (str(ip), port)
    zone = addr.value("ip6zone")
    return socket.AF_INET6, (str(ip).partition("%")[0], port, 0, socket.if_nametoindex(zone) if zone else 0)


def _multiaddr(sockaddr: tuple[str, int]) -> Multiaddr:
    return Multiaddr.tcp(sockaddr[0], sockaddr[1])
