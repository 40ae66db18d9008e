"""A py-libp2p node that speaks the peer contract (docs/contract.md): JSON lines on stdin and stdout, logs on stderr."""

import argparse
import re
import signal
import sys

import trio
from host import Node
from libp2p.tools.anyio_service import background_trio_service
from lines import event, reasons, serve

BAD_USAGE = 2


def some(*known):
    def parse(text):
        strange = [each for each in text.split(",") if each not in known]
        if strange:
            raise argparse.ArgumentTypeError(f"no {strange[0]!r} here; there are: {', '.join(known)}")
        return text

    return parse


def carried(text):
    if not re.search(r"/tcp/\d+(/ws)?$|/udp/\d+/quic-v1$", text):
        raise argparse.ArgumentTypeError(f"{text}: this peer has tcp, ws and quic")
    return text


def parse_options(arguments):
    parser = argparse.ArgumentParser(prog="py peer", description=__doc__)
    parser.add_argument("--name", default="node", help="what the peer is called in its logs")
    parser.add_argument("--role", choices=("peer", "relay"), default="peer")
    parser.add_argument("--listen", action="append", type=carried, metavar="MULTIADDR", help="repeatable")
    parser.add_argument("--state", help="folder in which the identity is kept")
    parser.add_argument("--security", type=some("noise", "tls"), default="noise,tls")
    parser.add_argument("--muxer", type=some("yamux"), default="yamux")
    options = parser.parse_args(arguments)
    options.listen = options.listen or ["/ip4/0.0.0.0/tcp/4001"]
    return options


async def stop_on_signal(scope, task_status=trio.TASK_STATUS_IGNORED):
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        task_status.started()
        async for _ in signals:
            scope.cancel()
            return


async def main(options):
    async with trio.open_nursery() as nursery:
        await nursery.start(stop_on_signal, nursery.cancel_scope)
        node = Node(options, nursery)
        async with (
            node.host.run(listen_addrs=node.listens_on),
            background_trio_service(node.circuits),
            background_trio_service(node.punching),
        ):
            await node.perf_service.start()
            await node.circuits.event_started.wait()
            await node.punching.event_started.wait()
            node.announce()
            await serve(node.commands())
        nursery.cancel_scope.cancel()
    event("stopped")


if __name__ == "__main__":
    options = parse_options(sys.argv[1:])
    try:
        trio.run(main, options)
    except* OSError as group:
        print(f"py-libp2p peer: {reasons(group)}", file=sys.stderr)
        sys.exit(BAD_USAGE)
