"""The echo and perf protocols, as far as py-libp2p does not bring them."""

import os
import struct
import time

import trio
from libp2p.network.stream.exceptions import StreamEOF, StreamReset
from lines import Refusal

ECHO = "/echo/1.0.0"
ECHO_MOST = 1 << 30
PERF_MOST = 1 << 34
BLOCK = 64 * 1024


async def read(stream, most=BLOCK):
    """Up to so many bytes; none at the end of the stream.

    Over QUIC the end may be told while the last bytes lie there unread, so it is an end only when it is told twice; of
    a stream that is closed both ways py-libp2p says then that it was reset.
    """
    if data := await _read_once(stream, most):
        return data
    try:
        return await _read_once(stream, most)
    except StreamReset:
        return b""


async def _read_once(stream, most):
    """The same as py-libp2p tells it; of the end some muxers tell by an exception."""
    try:
        return await stream.read(most) or b""
    except StreamEOF:
        return b""


async def serve_echo(stream):
    while data := await read(stream):
        await stream.write(data)
    await stream.close()


async def exchange(stream, size):
    """Send random bytes in blocks and compare what comes back while sending; returns the seconds."""
    began = time.perf_counter()
    sent = bytearray()

    async def send():
        for start in range(0, size, BLOCK):
            block = os.urandom(min(BLOCK, size - start))
            sent.extend(block)
            await stream.write(block)
        await stream.close_write()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        back = 0
        while back < size and (data := await read(stream)):
            if not data == sent[: len(data)]:
                raise Refusal("reset", "the echo differs from what was sent")
            del sent[: len(data)]
            back += len(data)
    if back != size:
        raise Refusal("reset", f"{back} bytes came back instead of {size}")
    return time.perf_counter() - began


async def measure(stream, upload, download):
    """One upload and one download; the first byte back, or the end, says that the upload has arrived."""
    began = time.perf_counter()
    await stream.write(struct.pack(">Q", download))
    for start in range(0, upload, BLOCK):
        await stream.write(bytes(min(BLOCK, upload - start)))
    await stream.close_write()
    got = len(await read(stream))
    uploaded = time.perf_counter()
    while data := await read(stream):
        got += len(data)
    if got != download:
        raise Refusal("reset", f"{got} bytes came instead of {download}")
    return {"upload_seconds": uploaded - began, "download_seconds": time.perf_counter() - uploaded}
