"""Hosts as the tests want them."""

from __future__ import annotations

from node.errors import NodeError
from node.host import Host, HostConfig
from node.logic.protection import DEFAULT, securities
from node.names.multiaddr import Multiaddr
from node.upstream.contract import LISTEN, Task
from node.wire.mplex import PROTOCOL as MPLEX
from node.wire.yamux import PROTOCOL as YAMUX


def config(task: Task, *, listen: bool, punch: bool = False, relay: bool = False) -> HostConfig:
    """A host that has nothing but what the test is about."""
    addrs = [Multiaddr(f"/ip{6 if ':' in task.ip else 4}/{task.ip}{LISTEN[each]}") for each in task.transports]
    return HostConfig(
        listen=tuple(addrs) if listen else (),
        security=DEFAULT if task.security is None else securities(task.security),
        muxers=(MPLEX,) if task.muxer == "mplex" else (YAMUX,),
        relay_client=punch,
        relay_server=relay,
        dcutr=punch,
        # The networks of a test have the addresses that their makers chose, which often are private ones.
        punch_private=punch,
    )


def reachable(host: Host) -> list[Multiaddr]:
    """Where others reach a host's listeners, with its peer id."""
    addrs = [addr for addr in host.listen_addrs() if addr.ip is not None and not addr.ip.is_loopback]
    if not addrs:
        raise NodeError("there is no address but loopback's for others to dial")
    return [addr.with_peer(host.peer_id) for addr in addrs]
