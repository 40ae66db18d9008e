"""An endpoint as people write it."""

from __future__ import annotations


def endpoint_text(address: str, port: int | str) -> str:
    """`11.0.1.2:4001`, `[2a11:0:1::2]:4001` (RFC 5952 §6)."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
