"""aioquic alone, by its own asyncio server and client: what QUIC costs without us.

    python -m tests.bench.bare_quic listen                       prints a port, answers until its stdin ends
    python -m tests.bench.bare_quic dial PORT UP DOWN TIMES      uploads UP bytes TIMES times, a line for each
    python -m tests.bench.bare_quic greet PORT TIMES             dials TIMES times, one after another

The shape is that of `tests.bench.foreign`. Windows are those that our node may grow to; there is no libp2p on it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
import sys
import time

from aioquic.asyncio.client import connect
from aioquic.asyncio.server import serve
from aioquic.quic.configuration import QuicConfiguration

from node.names.keys import PrivateKey
from node.net.credentials import Credentials

PIECE = 64 * 1024
HIGH_WATER = 1 << 20
"Bytes that the sender's buffer holds before it is left to drain: aioquic itself has no bound."
PAUSE = 0.001
WARM_UP = 20
DEADLINE = 110.0
MAX_DATA, MAX_STREAM_DATA = 16 << 20, 10 << 20


async def _listen() -> None:
    credentials = Credentials.of(PrivateKey.generate())
    answering: set[asyncio.Task[None]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1 << 20):
            continue
        writer.write(b"!")
        writer.write_eof()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(answer(reader, writer))
        answering.add(task)
        task.add_done_callback(answering.discard)

    configuration = QuicConfiguration(
        is_client=False,
        alpn_protocols=["libp2p"],
        certificate=credentials.certificate,
        private_key=credentials.key,
        max_data=MAX_DATA,
        max_stream_data=MAX_STREAM_DATA,
    )
    server = await serve("127.0.0.1", 0, configuration=configuration, stream_handler=accept)
    assert server._transport is not None
    print(server._transport.get_extra_info("sockname")[1], flush=True)
    await asyncio.to_thread(sys.stdin.read)
    server.close()


async def _dial(port: int, upload: int, times: int) -> None:
    configuration = QuicConfiguration(
        alpn_protocols=["libp2p"], verify_mode=ssl.CERT_NONE, max_data=MAX_DATA, max_stream_data=MAX_STREAM_DATA
    )
    async with asyncio.timeout(DEADLINE), connect("127.0.0.1", port, configuration=configuration) as client:
        for _ in range(times):
            begin = time.perf_counter()
            reader, writer = await client.create_stream()
            stream = client._quic._streams
            for left in range(upload, 0, -PIECE):
                writer.write(bytes(min(PIECE, left)))
                sender = next(reversed(stream.values())).sender
                while sender._buffer_stop - sender._buffer_start > HIGH_WATER:  # noqa: ASYNC110
                    await asyncio.sleep(PAUSE)  # aioquic tells nobody when its buffer has drained
            writer.write_eof()
            await reader.read()
            print(json.dumps({"upload_seconds": time.perf_counter() - begin, "download_seconds": None}), flush=True)


async def _greet(port: int, times: int) -> None:
    configuration = QuicConfiguration(alpn_protocols=["libp2p"], verify_mode=ssl.CERT_NONE)
    took = 0.0
    async with asyncio.timeout(DEADLINE):
        for count in range(WARM_UP + times):
            began = time.perf_counter()
            async with connect("127.0.0.1", port, configuration=configuration):
                if count >= WARM_UP:
                    took += time.perf_counter() - began
            # Leaving waits for aioquic's three timeouts after the goodbye, which are no handshake.
    print(json.dumps({"dials_per_second": times / took}), flush=True)


def main(arguments: list[str]) -> None:
    """Listen, or dial."""
    logging.getLogger("quic").setLevel(logging.WARNING)
    match arguments:
        case ["listen"]:
            asyncio.run(_listen())
        case ["dial", port, up, _down, times]:
            asyncio.run(_dial(int(port), int(up), int(times)))
        case ["greet", port, times]:
            asyncio.run(_greet(int(port), int(times)))
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
