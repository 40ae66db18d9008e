"""What the machine offers a node: an eighth of its memory and half of the file descriptors, as in go."""

from __future__ import annotations

import os
import resource
from dataclasses import replace

from node.logic.limits import MIB, Limits, scaled

MEMORY_SHARE = 8
FILES_SHARE = 2


def limits(mebibytes: int | None = None, files: int | None = None, per_ip: int | None = None) -> Limits:
    """Return the limits of a node that may use so much memory and so many file descriptors; None: its share.

    `per_ip` is how many inbound connections one address, or one IPv6 site's /56, may have.
    """
    memory = (mebibytes or 0) * MIB
    if mebibytes is None:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MEMORY_SHARE
    if files is None:
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // FILES_SHARE
    made = scaled(memory, files)
    if per_ip is None:
        return made
    v4 = tuple(replace(each, connections=per_ip) for each in made.per_ip4)
    v6 = tuple(replace(each, connections=per_ip) if each.prefix == 56 else each for each in made.per_ip6)
    return replace(made, per_ip4=v4, per_ip6=v6)
