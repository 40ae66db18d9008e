"""Messages of nfnetlink (linux/netfilter/nfnetlink.h), for what the `nft` program cannot say."""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from lab.kernel.namespace import Namespace

NETLINK_NETFILTER: Final = 12
SUBSYSTEM_NFTABLES: Final = 10
REQUEST, ACK, CREATE, APPEND = 0x1, 0x4, 0x400, 0x800
NESTED: Final = 0x8000
MAX_MESSAGE: Final = 1 << 17
ANSWER_WITHIN: Final = 10.0
"Seconds; the kernel answers at once."

MESSAGE: Final = struct.Struct("=IHHII")
GENERIC: Final = struct.Struct("!BBH")
ATTRIBUTE: Final = struct.Struct("=HH")

_BATCH_BEGIN, _BATCH_END = 16, 17
_NEW_RULE: Final = SUBSYSTEM_NFTABLES << 8 | 6
_NLMSG_ERROR: Final = 2


def attribute(kind: int, data: bytes) -> bytes:
    """One attribute, padded to four bytes."""
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(data), kind) + data + bytes(-len(data) % 4)


def message(kind: int, flags: int, family: int, resource: int, body: bytes = b"") -> bytes:
    """One message with the header that all of netfilter shares."""
    head = MESSAGE.pack(MESSAGE.size + GENERIC.size + len(body), kind, flags, 0, 0)
    return head + GENERIC.pack(family, 0, resource) + body


def check(answer: bytes) -> None:
    """Raise the OSError that an acknowledgement stands for, if any."""
    if MESSAGE.unpack_from(answer)[1] == _NLMSG_ERROR:
        (code,) = struct.unpack_from("=i", answer, MESSAGE.size)
        if code:
            raise OSError(-code, os.strerror(-code))


def rule(table: str, chain: str, expressions: Sequence[bytes]) -> bytes:
    """NFTA_RULE_* of a rule made of these expressions."""
    names = attribute(1, table.encode() + b"\0") + attribute(2, chain.encode() + b"\0")
    return names + attribute(4 | NESTED, b"".join(attribute(1 | NESTED, one) for one in expressions))


def expression(name: str, data: bytes) -> bytes:
    """NFTA_EXPR_* of one expression of a rule."""
    return attribute(1, name.encode() + b"\0") + attribute(2 | NESTED, data)


def append_rules(ns: Namespace, family: int, rules: Sequence[bytes]) -> None:
    """Append rules to the ends of their chains, all of them or none. Raises OSError."""
    # One answer, from the last, is enough: a batch is in force as a whole or not at all, and every error is answered.
    flags = [REQUEST | CREATE | APPEND] * (len(rules) - 1) + [REQUEST | CREATE | APPEND | ACK]
    batch = [message(_BATCH_BEGIN, REQUEST, 0, SUBSYSTEM_NFTABLES)]
    batch += [message(_NEW_RULE, flag, family, 0, body) for flag, body in zip(flags, rules, strict=True)]
    batch.append(message(_BATCH_END, REQUEST, 0, SUBSYSTEM_NFTABLES))
    with ns.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as control:
        control.settimeout(ANSWER_WITHIN)
        control.send(b"".join(batch))
        check(control.recv(MAX_MESSAGE))
