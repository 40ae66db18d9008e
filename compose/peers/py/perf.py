"""py-libp2p running /perf/1.0.0 over TCP, Noise and yamux, or over QUIC.

perf.py listen [ADDR]                  prints its address, answers until its stdin ends
perf.py dial ADDR UPLOAD DOWNLOAD N    prints N lines {"upload_seconds": …, "download_seconds": …}
perf.py greet ADDR N                   dials N times, one after another, and prints {"dials_per_second": …}
"""

import json
import struct
import sys
import time

import multiaddr
import trio
from libp2p import new_host
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.perf import PROTOCOL_NAME, PerfService

BLOCK = bytes(64 * 1024)
WARM_UP = 3


def settings(addr):
    """QUIC is off unless it is asked for, and has its own muxer."""
    return {"enable_quic": True} if "quic-v1" in addr else {"muxer_preference": "YAMUX"}


async def listen(addr):
    settled, addr = settings(addr), multiaddr.Multiaddr(addr)
    host = new_host(listen_addrs=[addr], **settled)
    async with host.run(listen_addrs=[addr]):
        await PerfService(host).start()
        print(host.get_addrs()[0], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)


async def dial(address, upload, download, rounds):
    host = new_host(**settings(address))
    async with host.run(listen_addrs=[]):
        peer = info_from_p2p_addr(multiaddr.Multiaddr(address))
        await host.connect(peer)
        for _ in range(rounds):
            print(json.dumps(await measure(host, peer.peer_id, upload, download)), flush=True)


async def greet(address, times):
    host = new_host(**settings(address))
    async with host.run(listen_addrs=[]):
        peer = info_from_p2p_addr(multiaddr.Multiaddr(address))
        for count in range(WARM_UP + times):
            if count == WARM_UP:
                began = time.perf_counter()
            await host.connect(peer)
            await host.disconnect(peer.peer_id)
        print(json.dumps({"dials_per_second": times / (time.perf_counter() - began)}), flush=True)


async def measure(host, peer_id, upload, download):
    stream = await host.new_stream(peer_id, [PROTOCOL_NAME])
    began = time.perf_counter()
    await stream.write(struct.pack(">Q", download))
    left = upload
    while left:
        block = BLOCK[: min(left, len(BLOCK))]
        await stream.write(block)
        left -= len(block)
    await stream.close_write()
    # The first byte back (or the end) says that the upload has arrived whole.
    received = len(await stream.read(len(BLOCK)) or b"") if download else await drained(stream)
    uploaded = time.perf_counter()
    while received < download:
        received += len(await stream.read(len(BLOCK)))
    ended = time.perf_counter()
    return {"upload_seconds": uploaded - began, "download_seconds": ended - uploaded}


async def drained(stream):
    try:
        while await stream.read(len(BLOCK)):
            pass
    except Exception as error:  # its way of saying end of stream differs between versions
        if "EOF" not in type(error).__name__:
            raise
    return 0


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["listen"]:
            trio.run(listen, "/ip4/127.0.0.1/tcp/0")
        case ["listen", address]:
            trio.run(listen, address)
        case ["dial", address, upload, download, times]:
            trio.run(dial, address, int(upload), int(download), int(times))
        case ["greet", address, times]:
            trio.run(greet, address, int(times))
        case _:
            sys.exit(__doc__)
