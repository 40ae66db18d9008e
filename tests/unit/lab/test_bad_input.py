"""What cannot be is refused before anything is built: one line with file, line, table, and what is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest

from lab.errors import TopologyError
from lab.model.topology import load
from lab.plan.build import build

HOME = '[router.home]\nnat = "home"\n'
STATIC = 'nat = { filtering = "address", one-to-one = true }'
BLOCKS = 'nat = { mapping = "endpoint", filtering = "address", ports = "block", block-size = 4096 }'


def peers(count: int, at: str = "home") -> str:
    return "".join(f'[peer.p{number}]\nat = "{at}"\n' for number in range(count))


@pytest.mark.parametrize(
    ("body", "line", "table", "allowed"),
    [
        (f'{HOME}link = {{ loss = "120%" }}\n{peers(1)}', 4, "[router.home] link.loss = '120%'", "allowed: 0% to 100%"),
        (f'{HOME}link = {{ latency = "-5ms" }}\n{peers(1)}', 4, "link.latency = '-5ms'", "allowed: 0s to 10s"),
        (f'{HOME}lan = "192.168.1.0/31"\n{peers(3)}', 4, "lan = '192.168.1.0/31'", "allowed: /8 to /30"),
        (f'{HOME}lan = "192.168.1.0/30"\n{peers(3)}', 2, "[router.home] 3 peers", "allowed: 1 on the LAN"),
        (f'[router.home]\nnat = "hoem"\n{peers(1)}', 3, "nat = 'hoem'", "allowed: full-cone, address-restricted"),
        (f'{HOME}link = "wfi"\n{peers(1)}', 4, "link = 'wfi'", "allowed: fibre, dsl, cable"),
        (
            f'{HOME}at = "b"\n[router.b]\nnat = "home"\nat = "home"\n{peers(1)}',
            4,
            "[router.home]",
            "in a circle: home → b",
        ),
        (f'{HOME}lan = "192.168.1.0/28"\n{peers(20)}', 2, "20 peers", "allowed: 13 on the LAN 192.168.1.0/28"),
        (peers(251, "internet"), 1, "251 routers and public peers", "allowed: 250 together"),
        (f"[router.home]\n{BLOCKS}\n{peers(15)}", 2, "[router.home] 15 subscribers", "allowed: 14"),
        (
            f'[router.isp]\nnat = "home"\n[router.home]\nat = "isp"\n{STATIC}\n{peers(2)}',
            4,
            "[router.home] it is behind isp",
            "allowed: 1, or at = 'internet'",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_built(
    tmp_path: Path, body: str, line: int, table: str, allowed: str
) -> None:
    file = tmp_path / "bad.toml"
    file.write_text(f'name = "bad"\n{body}')
    with pytest.raises(TopologyError) as caught:
        build(load(file), 1)
    message = str(caught.value)
    assert message.startswith(f"{file}:{line}: ")
    assert table in message
    assert allowed in message
    assert "\n" not in message
