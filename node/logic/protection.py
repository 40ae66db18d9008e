"""What secures a connection, and the three states of protection a node can be asked for.

    encrypted     nobody on the way can read or change anything       Noise, or TLS 1.3
    signed only   anybody can read, nobody can change anything        TLS 1.3 with the suites of RFC 9150
    clear         anybody can read and change everything              plaintext: the identities are claims

A connection is of one state, and peers of different states have no protocol or no cipher suite in common: nothing is
ever negotiated down.
"""

from __future__ import annotations

from enum import Enum

from node.errors import ConfigError

__all__ = ["DEFAULT", "Protection", "Security", "securities"]


class Security(Enum):
    """A way to secure a connection."""

    NOISE = "noise"
    TLS = "tls"
    TLS_SIGNED_ONLY = "tls-signed-only"
    PLAINTEXT = "plaintext"

    @property
    def protocol(self) -> str:
        """The id by which multistream-select knows it."""
        return _PROTOCOLS[self]

    def __str__(self) -> str:
        """The id, and what it does not say: two ways share that of TLS."""
        return f"{self.protocol} (signed only)" if self is Security.TLS_SIGNED_ONLY else self.protocol


_PROTOCOLS = {
    Security.NOISE: "/noise",
    Security.TLS: "/tls/1.0.0",
    Security.TLS_SIGNED_ONLY: "/tls/1.0.0",
    Security.PLAINTEXT: "/plaintext/2.0.0",
}


class Protection(Enum):
    """What is to be true of every connection."""

    ENCRYPTED = "encrypted"
    SIGNED = "signed"
    CLEAR = "clear"

    @property
    def securities(self) -> tuple[Security, ...]:
        """What gives it, best first."""
        return _SECURITIES[self]


_SECURITIES = {
    Protection.ENCRYPTED: (Security.NOISE, Security.TLS),
    Protection.SIGNED: (Security.TLS_SIGNED_ONLY,),
    Protection.CLEAR: (Security.PLAINTEXT,),
}
DEFAULT = Protection.ENCRYPTED.securities
"""Noise before TLS, not as in go: its handshake is faster (docs/decisions/0015-noise-before-tls.md)."""


def securities(text: str) -> tuple[Security, ...]:
    """Return what `text` asks for: a state of protection, or ways that encrypt, `tls,noise`; else ConfigError."""
    for protection in Protection:
        if text == protection.value:
            return protection.securities
    encrypting = {each.value: each for each in Protection.ENCRYPTED.securities}
    names = text.split(",")
    if not set(names) <= set(encrypting) or len(set(names)) < len(names):
        states = ", ".join(each.value for each in Protection)
        raise ConfigError(f"--security: {text!r} is neither of {states} nor a list of {', '.join(encrypting)}")
    return tuple(encrypting[name] for name in names)
