"""The kernel holds the statements that were written past nft, and nft reads in them what the text says."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest

from lab.errors import KernelError
from lab.kernel import nft
from lab.kernel.map_updates import MapUpdate, append
from lab.kernel.namespace import Namespace
from lab.model.grid import grid
from lab.model.nat import Mapping
from lab.plan.ruleset import ruleset

Inside = Callable[[Callable[[], None]], None]
UPDATE = re.compile(r"(update @(?:in|out)_\w+ \{ .* : .* \})")
KINDS = {nat.mapping: nat for nat in grid() if nat.hairpin and not nat.one_to_one and nat.public_addresses == 1}


@pytest.mark.parametrize("mapping", Mapping, ids=lambda mapping: mapping.value)
def test_nft_lists_what_the_text_said(inside: Inside, mapping: Mapping) -> None:
    def check() -> None:
        text = ruleset(KINDS[mapping], ("2a11:0:1::2",), ("fd11:1:1::10",), "1/home")
        with Namespace("router") as ns:
            nft.load(ns, text)
            listed = UPDATE.findall(nft.listing(ns))
        lifetimes = re.compile(r" timeout (?:\d+[smhd])+")
        wanted = [lifetimes.sub("", statement) for statement in UPDATE.findall(text)]
        assert [lifetimes.sub("", statement) for statement in listed] == wanted
        assert len(wanted) >= 6

    inside(check)


def test_loading_anew_replaces_the_statements_too(inside: Inside) -> None:
    def check() -> None:
        text = ruleset(KINDS[Mapping.ENDPOINT_INDEPENDENT], ("2a11:0:1::2",), ("fd11:1:1::10",), "1/home")
        with Namespace("router") as ns:
            nft.load(ns, text)
            before = nft.listing(ns)
            nft.load(ns, text)
            assert nft.listing(ns) == before

    inside(check)


@pytest.mark.parametrize(
    ("chain", "key", "complaint"),
    [
        ("nowhere", "udp sport", "the kernel does not take an update of an IPv6 map: No such file or directory"),
        ("record", "ip saddr", "punchlab, chain record: no way to load 'ip saddr'"),
    ],
)
def test_what_the_kernel_or_the_encoder_does_not_take_is_one_line(
    inside: Inside, chain: str, key: str, complaint: str
) -> None:
    def check() -> None:
        text = ruleset(KINDS[Mapping.ENDPOINT_INDEPENDENT], ("2a11:0:1::2",), ("fd11:1:1::10",), "1/home")
        with Namespace("router") as ns:
            nft.load(ns, text)
            update = MapUpdate("punchlab", chain, "udp", None, "in_udp", (key,), ("ip6 saddr", "udp sport"), None)
            with pytest.raises(KernelError) as caught:
                append(ns, [update])
            assert complaint in str(caught.value)

    inside(check)
