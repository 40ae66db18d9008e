"""Addresses. The internet has to look public, or libp2p does not punch: 11.0.0.0/8, which nobody announces.

    core ── 11.0.1.0/24 ── home-a ── 192.168.1.0/24 ── alice .10
      │  ── 11.0.2.0/24 ── home-b ── 192.168.1.0/24 ── bob   .10
      │  ── 11.0.3.0/24 ── relay
      lo    11.255.1.1, 11.255.2.1                      the vantages that NATs are probed from

Every neighbour of the core has a network of its own, so that no two of them share a segment or an ARP table, and every
LAN has the same prefix, as homes do: a packet that finds its way past a NAT cannot find its way home.
"""

from __future__ import annotations

from typing import Final

LAN_PREFIX: Final = "192.168.1.0/24"
LAN_GATEWAY: Final = "192.168.1.1"
VANTAGES: Final = ("11.255.1.1", "11.255.2.1")
FIRST_HOST: Final = 10


def core_side(neighbour: int) -> str:
    """The core's address towards its neighbour number `neighbour`, counted from 1."""
    return f"11.0.{neighbour}.1"


def neighbour_side(neighbour: int) -> str:
    """That neighbour's own, public address."""
    return f"11.0.{neighbour}.2"


def lan_host(index: int) -> str:
    """The address of a LAN's host number `index`, counted from 0."""
    return f"192.168.1.{FIRST_HOST + index}"
