"""Where a request comes from, as far as the network tells: for the rate limit and the audit log."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from litestar.types import HTTPScope

UNKNOWN: Final = "unknown"
# What one customer of a network has: whoever owns one address of it owns them all.
_IPV6_BITS: Final = 64


def address_of(scope: HTTPScope) -> str:
    """The client's address in its usual spelling; of IPv6 its network of 64 bits. A proxy that is trusted names it."""
    client = scope.get("client")
    if client is None:
        return UNKNOWN
    try:
        address = ipaddress.ip_address(client[0].partition("%")[0])
    except ValueError:
        return UNKNOWN
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            return str(address.ipv4_mapped)
        return str(ipaddress.ip_network((address, _IPV6_BITS), strict=False))
    return str(address)


def with_mapped(networks: Iterable[str]) -> list[str]:
    """These, and those of IPv4 as a listener on `::` sees them, too: 10.0.0.0/8 is ::ffff:10.0.0.0/104 there."""
    found = []
    for text in networks:
        found.append(text)
        network = ipaddress.ip_network(text)
        if isinstance(network, ipaddress.IPv4Network):
            found.append(f"::ffff:{network.network_address}/{96 + network.prefixlen}")
    return found
