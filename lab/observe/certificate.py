"""A NAT as declared and as measured: what a run shows before anybody believes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lab.errors import LabError
from lab.model.ipv6 import Ip
from lab.model.nat import Nat
from lab.model.plain import from_plain, to_plain
from lab.observe.nat import Behaviour, QueryBehaviour


@dataclass(frozen=True, slots=True)
class Trap:
    """One way in which NATs of a laboratory go wrong unseen, and whether this one does."""

    name: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Certificate:
    """A NAT as declared and as measured. It is worth what it says only if `ok`."""

    router: str
    declared: Nat
    udp: Behaviour | None
    "None: the probe itself failed, and `differences` says how"
    tcp: Behaviour | None
    icmp: QueryBehaviour | None
    traps: tuple[Trap, ...]
    differences: tuple[str, ...]
    "one sentence for each thing that is not as declared"
    seconds: float
    "what the probe took"
    ip: Ip = Ip.V4
    "the version that it was measured over"

    @property
    def ok(self) -> bool:
        """Whether everything was measured, and measured as declared."""
        return not self.differences and None not in (self.udp, self.tcp, self.icmp)


def certificate_to_json(certificate: Certificate) -> dict[str, Any]:
    """The certificate as JSON values; `certificate_from_json` is its inverse."""
    return {**to_plain(certificate), "ok": certificate.ok}


def certificate_from_json(value: Any) -> Certificate:
    """The certificate in JSON values. Raises `LabError` where they are none."""
    if not isinstance(value, dict) or "ok" not in value:
        raise LabError("not a NAT certificate: no object that says whether it is ok")
    plain = {key: item for key, item in value.items() if key != "ok"}
    try:
        return from_plain(plain, Certificate, "certificate")
    except LabError as error:
        raise LabError(f"not a NAT certificate: {error}") from error
