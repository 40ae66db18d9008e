"""Addresses. The internet has to look public, or libp2p does not punch: 11.0.0.0/8, which nobody announces.

    core ── 11.0.1.0/24 ── home-a ── 192.168.1.0/24 ── alice .10
      │  ── 11.0.2.0/24 ── isp ── 100.64.0.0/10 ── home-b ── 192.168.1.0/24 ── bob .10
      │                     lo    11.254.1.1, 11.253.1.1    the vantages that home-b is probed from
      │  ── 11.0.3.0/24 ── relay
      lo    11.255.1.1, 11.255.2.1                          the vantages that home-a and isp are probed from

Every neighbour of the core has a network of its own, so that no two of them share a segment or an ARP table, and every
home has the same prefix, as homes do: a packet that finds its way past a NAT cannot find its way home.

A router with routers behind it is their internet, as far as measuring them goes: it has two addresses of its own that
look public, so that each NAT is measured by itself and not through the others.
"""

from __future__ import annotations

from typing import Final

VANTAGES: Final = ("11.255.1.1", "11.255.2.1")


def core_side(neighbour: int) -> str:
    """The core's address towards its neighbour number `neighbour`, counted from 1."""
    return f"11.0.{neighbour}.1"


def neighbour_side(neighbour: int, index: int = 0) -> str:
    """That neighbour's own, public address; of several, the one with that number."""
    return f"11.0.{neighbour}.{2 + index}"


def carrier_vantages(carrier: int) -> tuple[str, str]:
    """What routers behind carrier number `carrier`, counted from 1, are probed from."""
    return f"11.254.{carrier}.1", f"11.253.{carrier}.1"
