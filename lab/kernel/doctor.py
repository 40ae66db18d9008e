"""What this machine offers, found out by trying: each finding is one line, and where something lacks, what to do.

Programs are asked for their version; everything about the kernel is done once, small, in a sandbox of its own.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from lab.errors import LabError, MissingCapability
from lab.kernel import capture, nfqueue, nft, portmap, sandbox, shaping, translator
from lab.kernel.conntrack import ConntrackWatch
from lab.kernel.container import Engine
from lab.kernel.namespace import Namespace
from lab.kernel.network import Network
from lab.kernel.pods import HOLDER_IMAGE
from lab.plan.plan import Cable, Plan, Port, Space, SpaceKind

_PROGRAM_WITHIN = 10.0
"Seconds for a program to tell its version; a Docker daemon that hangs shall not hang us."
_TRIALS_WITHIN = 90.0
"Seconds; they need 0.2, but where each first has to load its modules, in an emulated machine, 40."
_OLDEST_PYTHON = (3, 11)
IMAGES = (HOLDER_IMAGE, "punchlab/lab")
"what `make images` builds"

_TRIAL_RULES = """
table ip punchlab {
  map m { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 30s; size 16; }
  chain pre { type nat hook prerouting priority dstnat; policy accept;
    meta l4proto udp dnat ip to udp dport map @m
  }
  chain post { type filter hook postrouting priority 110; policy accept;
    meta l4proto udp ct direction original update @m { udp sport : ct original ip saddr . ct original proto-src }
  }
}
"""
_TRIAL_QUEUE = """
table inet trial {
  chain handing { }
  chain forward { type filter hook forward priority filter; policy accept; goto handing; }
}
"""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a lab needs or likes to have."""

    name: str
    ok: bool
    detail: str
    advice: str = ""
    needed: bool = True
    "no lab without it"


def examine() -> list[Finding]:
    """Look at this machine, in about 0.2 s; never raises for what it finds."""
    return [_python(), _kernel(), _apparmor(), *_sandbox(), _nft(), _iproute(), _miniupnpd(), _tayga(), *_docker()]


def _python() -> Finding:
    version = platform.python_version()
    wanted = ".".join(map(str, _OLDEST_PYTHON))
    return Finding("python", sys.version_info >= _OLDEST_PYTHON, version, f"install Python {wanted} or later")


def _kernel() -> Finding:
    linux = sys.platform == "linux"
    detail = f"{platform.system()} {platform.release()}"
    return Finding("kernel", linux, detail, "" if linux else "network namespaces need Linux: use a virtual machine")


def _apparmor() -> Finding:
    try:
        restricted = Path("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").read_text().strip() == "1"
    except OSError:
        restricted = False
    if not restricted:
        return Finding("apparmor", True, "does not restrict user namespaces")
    advice = "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    return Finding("apparmor", os.geteuid() == 0, "restricts the user namespaces of ordinary users", advice)


def _sandbox() -> list[Finding]:
    """Make one, and try in it what labs do."""
    problem = sandbox.problem()
    if problem is not None:
        return [Finding("namespaces", False, "no sandbox can be made", problem)]
    made = Finding("namespaces", True, "user, network, mount and PID namespaces")
    try:
        raw = sandbox.fork_into_sandbox(_trials, _TRIALS_WITHIN)
    except LabError as error:
        return [made, Finding("network", False, "the trial in a sandbox failed", str(error))]
    return [made, *(Finding(**finding) for finding in json.loads(raw))]


def _trials() -> bytes:
    advice = {
        "network": "load the modules veth and bridge (`sudo modprobe veth bridge`)",
        "nat": "needs nft 1.0.6 and a kernel with nf_tables, nf_nat and nf_conntrack (`sudo modprobe nft_nat nft_ct`)",
        "conntrack events": "load the module nf_conntrack_netlink",
        "capture": "needs a kernel with AF_PACKET and its memory map (CONFIG_PACKET)",
    }
    found = [
        _tried("network", "veth pairs and bridges", _try_network, advice),
        _tried("nat", "nftables maps, address and port translation", _try_rules, advice),
        _tried("conntrack events", "NAT mappings can be watched", _try_conntrack, advice),
        _tried("capture", "packet rings", _try_capture, advice),
        _links(),
    ]
    return json.dumps([asdict(finding) for finding in found]).encode()


def _tried(name: str, means: str, trial: Callable[[], None], advice: dict[str, str]) -> Finding:
    try:
        trial()
    except (LabError, OSError) as error:
        return Finding(name, False, str(error), advice[name])
    return Finding(name, True, means)


def _try_network() -> None:
    spaces = (Space("a", SpaceKind.ROUTER, ("lan",)), Space("b", SpaceKind.HOST))
    cable = Cable(Port("a", "lan0", bridge="lan"), Port("b", "eth0", ("11.0.0.2/24",)))
    Network.build(Plan("doctor", 0, spaces, (), (cable,), (), (), (), (), (), ("", ""))).close()


def _try_rules() -> None:
    with Namespace("trial") as ns:
        nft.load(ns, _TRIAL_RULES)


def _try_conntrack() -> None:
    with Namespace("trial") as ns:
        ConntrackWatch(ns, "trial").close()


def _try_capture() -> None:
    with Namespace("trial") as ns:
        capture.probe(ns)


def _links() -> Finding:
    """Only shaped links need it: everything else works without."""
    advice = (
        "load modules: `sudo modprobe sch_netem` (Ubuntu: linux-modules-extra), "
        "or nfnetlink_queue, nft_compat and xt_NFQUEUE"
    )
    try:
        backend, why = shaping.choice()
    except MissingCapability as error:
        return Finding("links", False, str(error), f"unset {shaping.ENVIRONMENT}, or {advice}", needed=False)
    because = f": {why}" if why else ""
    if backend == shaping.NETEM:
        return Finding("links", True, f"netem, by the kernel{because}", needed=False)
    with Namespace("trial") as ns:
        try:
            nft.load(ns, _TRIAL_QUEUE)
            nfqueue.add_queue_rules(ns, "trial", [("handing", 1)])
            with ns.entered():
                nfqueue.Queue(1).close()
        except (LabError, OSError) as error:
            return Finding("links", False, f"{why}; nor can the userspace link be made: {error}", advice, needed=False)
    return Finding("links", True, f"the userspace link{because}", needed=False)


def _nft() -> Finding:
    told, ok = _told("nft", "--version")
    return Finding("nft", ok, told, "install nftables (`sudo apt install nftables`)")


def _iproute() -> Finding:
    told, ok = _told("ip", "-Version")
    advice = "install iproute2 (`sudo apt install iproute2`), to look around in `punchlab shell`"
    return Finding("iproute2", ok, told, advice, needed=False)


def _miniupnpd() -> Finding:
    told, ok = _told(portmap.PROGRAM, "--version")
    problem = portmap.problem()
    advice = f"only for routers that offer port mapping: {portmap.INSTALL}"
    return Finding(
        "miniupnpd", problem is None, told if ok and problem is None else problem or told, advice, needed=False
    )


def _tayga() -> Finding:
    problem = translator.problem()
    advice = f"only for routers that translate between IPv6 and IPv4 (nat64): {translator.INSTALL}"
    return Finding("tayga", problem is None, problem or "NAT64 beside a router", advice, needed=False)


def _docker() -> list[Finding]:
    """Only peers in containers need it."""
    told, installed = _told("docker", "--version")
    client = told.partition(",")[0] if installed else "no client"
    try:
        with closing(Engine.find()) as engine:
            return _engine(engine, client)
    except LabError as error:
        advice = "only for peers in containers, and to build images"
        return [Finding("docker", False, f"{client}; {error}", advice, needed=False)]


def _engine(engine: Engine, client: str) -> list[Finding]:
    found = Finding("docker", True, f"engine {engine.version}, {client}", needed=False)
    sizes = {name: engine.image_size(name) for name in IMAGES}
    there = ", ".join(f"{name} {size / 1e6:.0f} MB" for name, size in sizes.items() if size is not None)
    missing = [name for name, size in sizes.items() if size is None]
    lacks = f"not built: {', '.join(missing)}" if missing else ""
    images = Finding("images", not missing, "; ".join(filter(None, (there, lacks))), "`make images`", needed=False)
    try:
        engine.require_rights()
    except MissingCapability as error:
        return [found, Finding("containers", False, "no peers in containers", str(error), needed=False), images]
    return [found, images]


def _told(program: str, *arguments: str) -> tuple[str, bool]:
    """The first line a program answers, and whether it was content."""
    if shutil.which(program) is None:
        return "not installed", False
    try:
        done = subprocess.run(
            [program, *arguments], capture_output=True, text=True, timeout=_PROGRAM_WITHIN, check=False
        )
    except subprocess.TimeoutExpired:
        return f"does not answer within {_PROGRAM_WITHIN:.0f} s", False
    except OSError as error:
        return f"does not start: {error.strerror}", False
    lines = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip().splitlines()
    return lines[0] if lines else "", done.returncode == 0
