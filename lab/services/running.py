"""The lab's own programs in one network, from its making to its end."""

from __future__ import annotations

from contextlib import ExitStack

from lab.errors import KernelError
from lab.kernel.network import Network
from lab.plan.switching import exchanges
from lab.services.reflector import Reflector, Side


class Services:
    """What runs in a network beside peers. Made by `start`, in a running loop; ended by `close`."""

    def __init__(self, owned: ExitStack) -> None:
        self._owned = owned

    @classmethod
    def start(cls, network: Network) -> Services:
        """Start all that the network's plan has; raises KernelError, and then nothing runs."""
        with ExitStack() as owned:
            for group in exchanges(network.plan.lans):
                reflector = Reflector(
                    [Side(network.spaces[lan.router], lan.bridge, lan.switch.link_local) for lan in group]
                )
                owned.callback(reflector.close)
                try:
                    reflector.start()
                except OSError as error:
                    names = ", ".join(lan.router for lan in group)
                    raise KernelError(f"no reflector between the LANs of {names}: {error.strerror}") from error
            return cls(owned.pop_all())
        raise AssertionError("the stack swallows nothing")

    def close(self) -> None:
        """End all of them."""
        self._owned.close()
