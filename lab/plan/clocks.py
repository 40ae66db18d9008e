"""What a router's kernel has to be told beside its rules: conntrack's lifetimes are those of the NAT's value."""

from __future__ import annotations

from typing import Final

from lab.model.nat import ICMP_TIMEOUT, Nat, Unsolicited

TCP_TRANSITORY: Final = ("syn_sent", "syn_recv", "fin_wait", "close_wait", "last_ack")
"the states of connections that open or close (RFC 5382 §5)"
TCP_LIFETIMES: Final = {"time_wait": 120.0, "close": 10.0, "max_retrans": 300.0, "unacknowledged": 300.0}
"the kernel's seconds for the other states (nf_conntrack_proto_tcp.c); no flow may outlive its mapping"
REFUSING: Final = (("ipv4/icmp_ratelimit", "0"), ("ipv6/icmp/ratelimit", "0"))
"of a NAT that refuses by ICMP errors"


def nat_sysctls(nat: Nat) -> tuple[tuple[str, str], ...]:
    """Conntrack's lifetimes are the mapping's, or there would be two; and bridged frames stay out of the NAT chains."""
    tcp = {"established": nat.tcp_timeout, **dict.fromkeys(TCP_TRANSITORY, nat.tcp_transitory_timeout)}
    tcp |= {state: min(nat.tcp_timeout, seconds) for state, seconds in TCP_LIFETIMES.items()}
    udp = {"udp_timeout": nat.udp_new_timeout, "udp_timeout_stream": nat.udp_timeout, "icmp_timeout": ICMP_TIMEOUT}
    udp["icmpv6_timeout"] = ICMP_TIMEOUT
    lifetimes = udp | {f"tcp_timeout_{state}": seconds for state, seconds in tcp.items()}
    return (
        ("bridge/bridge-nf-call-iptables", "0"),
        ("netfilter/nf_conntrack_events", "1"),
        ("netfilter/nf_conntrack_timestamp", "1"),
        # Sequence numbers are no NAT's business: who was refused tries again with others, and a listener has its own.
        ("netfilter/nf_conntrack_tcp_be_liberal", "1"),
        *((f"netfilter/nf_conntrack_{name}", f"{seconds:.0f}") for name, seconds in lifetimes.items()),
        # One error a second and sender is what the kernel allows; a NAT that refuses answers everybody.
        *(REFUSING if nat.unsolicited is Unsolicited.ICMP else ()),
    )
