"""What can go wrong in the lab, as types: the user's mistake, the machine's lack, the lab's own failure, a peer's."""

from __future__ import annotations


class LabError(Exception):
    """Anything the lab reports; the message is one line that says what to do."""


class TopologyError(LabError):
    """A topology file that cannot be used: `file:line: [table] what is wrong; what is allowed`."""


class MissingCapability(LabError):
    """The machine lacks a right, a program or a kernel feature; the message is `doctor`'s advice."""


class KernelError(LabError):
    """The kernel refused part of a plan: an interface, a route, a rule set, a capture."""


class PeerError(LabError):
    """A peer crashed, hung, talked nonsense or answered with an error."""


class PeerUnsupported(PeerError):
    """A peer answered that it does not have what was asked."""


class EventError(LabError):
    """An event that was asked of a running lab makes no sense there; the message names what exists."""


class Inconclusive(LabError):
    """The lab is not what it was declared to be, or could not do what was asked: nothing can be said of the peers."""
