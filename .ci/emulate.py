"""Runs a command here, in this folder, but under Debian's kernel on an emulated machine.

    .venv/bin/python .ci/emulate.py OUT COMMAND [ARGUMENT …]

What the command writes into /dev/ttyS1 is in the file OUT afterwards; its exit status is ours. It runs as root, and
may have others run something, for whom all folders are open.

The machine has one processor and nothing but memory, in which are this folder, Python, some tools and what they need.
Its clock counts instructions, a nanosecond each, and where the machine idles goes on at once to whatever is next: in
there a delay is as long, and a second holds as much work, however busy or slow the machine out here is.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

MODULES = (
    *("veth", "bridge", "ifb", "tun", "af_packet", "sch_netem", "sch_prio", "sch_tbf", "sch_ingress", "cls_flower"),
    *("cls_fw", "act_mirred", "nf_tables", "nft_chain_nat", "nft_nat", "nft_masq", "nft_redir", "nft_ct", "nft_limit"),
    *("nft_log", "nft_reject_inet", "nft_hash", "nft_numgen", "nft_objref", "nft_connlimit", "nft_quota"),
    *("nft_fib_inet", "nft_compat", "nft_queue", "xt_NFQUEUE", "nfnetlink_queue", "nf_conntrack_netlink"),
)
TOOLS = ["sh", "env", "cat", "dirname", "grep", "tc", "ip", "nft", "sysctl", "setpriv", "ping"]
SETTINGS = tuple(
    Path(each)
    for each in (
        *("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/protocols", "/etc/iproute2"),
        "/usr/share/iproute2",
    )
)
STANDARD_LIBRARY = Path(sysconfig.get_path("stdlib"))
SEARCH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
NEEDED = (
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("modprobe", "kmod"),
    ("ldd", "libc-bin"),
)
LEFT_OUT = {
    ".git",
    "build",
    "runs",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    "mypy",
    "mypyc",
    "pip",
    "ruff",
    "test",
    "idlelib",
    "lib2to3",
}
"folders and files that nothing in there needs, by name"
MEMORY = "2G"
INIT = """\
#!/bin/busybox sh
export PATH={path} HOME=/root TERM=dumb LANG=C.UTF-8
/bin/busybox mkdir -p /proc /sys /dev /run /tmp /root /var/tmp
for each in proc sysfs; do /bin/busybox mount -t $each $each /${{each%fs}}; done
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mkdir -p /dev/pts /dev/shm
/bin/busybox mount -t devpts pts /dev/pts
for each in /run /dev/shm; do /bin/busybox mount -t tmpfs -o mode=1777 temporary $each; done
/bin/busybox chmod 1777 /tmp  # and nothing on top of it: the checkout may be in there
for each in {modules}; do /bin/busybox insmod $each; done
/bin/busybox stty -F /dev/ttyS1 raw
/bin/busybox chmod a+rw /dev/ttyS1
/bin/busybox chmod a+rx {folders}
cd {folder}
/usr/bin/env {command}
echo $? >/dev/ttyS2
/bin/busybox reboot -f
"""


def main(out: str, command: list[str]) -> int:
    """Boot, run, halt; the command's exit status."""
    kernel = _kernel()
    for program, package in NEEDED:
        if shutil.which(program, path=SEARCH) is None:
            raise SystemExit(_lacking(program, package))
    with tempfile.TemporaryDirectory() as made:
        initrd, status = Path(made, "initrd"), Path(made, "status")
        _pack(initrd, Path(made, "extra"), kernel.name.removeprefix("vmlinuz-"), command)
        subprocess.run(
            [
                *("qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-smp", "1", "-m", MEMORY),
                *("-icount", "shift=0,sleep=off", "-rtc", "clock=vm"),
                *("-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"),
                *("-serial", "stdio", "-serial", f"file:{out}", "-serial", f"file:{status}"),
                *("-kernel", str(kernel), "-initrd", str(initrd)),
                *("-append", "console=ttyS0 quiet panic=-1 tsc=reliable mitigations=off"),
            ],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "PATH": SEARCH},
            check=True,
        )
        return int(status.read_text("ascii").strip() or 1)


def _kernel() -> Path:
    kernels = sorted(Path("/boot").glob("vmlinuz-*-amd64"), key=lambda path: path.stat().st_mtime)
    if not kernels:
        raise SystemExit(_lacking("kernel that has netem", "linux-image-amd64"))
    return kernels[-1]


def _lacking(what: str, package: str) -> str:
    return f"emulate: there is no {what} here; to have it: sudo apt-get install --no-install-recommends {package}"


def _pack(initrd: Path, extra: Path, kernel: str, command: list[str]) -> None:
    """All that the machine has, as two archives in one file: what is here, and what is only there."""
    modules = _modules(kernel)
    extra.mkdir()
    script = INIT.format(
        path=shlex.quote(SEARCH),
        modules=" ".join(modules),
        folder=shlex.quote(str(Path.cwd())),
        folders=shlex.join(
            str(path) for inside in (Path.cwd(), Path(sys.base_prefix)) for path in (inside, *inside.parents)
        ),
        command=shlex.join(command),
    )
    init = extra / "init"
    init.write_text(script, "utf-8")
    init.chmod(0o755)
    here = [*map(Path, modules), *_files(), Path("/bin/busybox")]
    with initrd.open("wb") as file:
        _archive(file.fileno(), "/", (str(path.relative_to("/")) for path in _with_folders(here)))
        _archive(file.fileno(), str(extra), ("init",))


def _archive(file: int, folder: str, names: Iterable[str]) -> None:
    listed = "\n".join(names) + "\n"
    subprocess.run(
        ["busybox", "cpio", "-o", "-H", "newc"],
        cwd=folder,
        input=listed,
        text=True,
        stdout=file,
        stderr=subprocess.DEVNULL,
        check=True,
    )


def _modules(kernel: str) -> list[str]:
    """The modules' files, in the order to load them; a kernel may have some built in, or not at all."""
    found: dict[str, None] = {}
    for module in MODULES:
        asked = ["modprobe", "--set-version", kernel, "--show-depends", module]
        told = subprocess.run(asked, capture_output=True, text=True, check=False, env={**os.environ, "PATH": SEARCH})
        found |= {words[1]: None for line in told.stdout.splitlines() if (words := line.split())[0] == "insmod"}
    return list(found)


def _files() -> Iterator[Path]:
    """Everything that Python, the tools and what is in this folder may want to read."""
    base = Path(sys.base_prefix)
    tools = [Path(found) for tool in TOOLS if (found := shutil.which(tool, path=SEARCH))]
    binaries = [*tools, *base.glob("bin/python3*"), *base.glob("lib/libpython*.so*")]
    yield from binaries
    for folder in (Path.cwd(), STANDARD_LIBRARY, *SETTINGS):
        for path in _below(folder):
            yield path
            if path.suffix == ".so":
                binaries.append(path)
    yield from _libraries(binaries)


def _below(folder: Path) -> Iterator[Path]:
    yield folder
    for where, folders, names in os.walk(folder):
        left_out = LEFT_OUT | ({"site-packages"} if Path(where) == STANDARD_LIBRARY else set())
        folders[:] = [name for name in folders if name not in left_out and not name.startswith("config-")]
        yield from (Path(where, name) for name in (*folders, *names) if name not in left_out)


def _libraries(binaries: Iterable[Path]) -> set[Path]:
    """The shared libraries that programs and libraries are linked with."""
    told = subprocess.run(["ldd", *binaries], capture_output=True, text=True, check=False).stdout
    libraries = (line for line in told.splitlines() if line.startswith("\t"))
    return {Path(word) for line in libraries for word in line.split() if word.startswith("/")}


def _with_folders(paths: Iterable[Path]) -> Iterator[Path]:
    """Each path once, behind the folders that it is in and with what the links on the way lead to."""
    seen: set[Path] = set()
    ahead = list(paths)[::-1]
    while ahead:
        path = Path(os.path.normpath(ahead.pop()))
        for each in (*reversed(path.parents), path):
            place = each.parent.resolve() / each.name
            if place in seen or not os.path.lexists(place):
                continue
            new = [one for one in (*reversed(place.parents), place) if one not in seen]
            seen.update(new)
            yield from new
            if place.is_symlink():
                ahead.append(place.parent / place.readlink())


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    sys.exit(main(sys.argv[1], sys.argv[2:]))
