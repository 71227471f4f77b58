"""Who asks, if a reverse proxy is in front: attempts to log in are slowed down by host."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers

from imageloom.errors import UsageError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(texts: Sequence[str]) -> tuple[Network, ...]:
    """The networks of trusted proxies.

    Raises:
        UsageError: one is not an address or a network.
    """
    found = []
    for text in texts:
        try:
            found.append(ipaddress.ip_network(text))
        except ValueError as error:
            raise UsageError(f"--proxy {text}: expected an address or a network: {error}") from None
    return tuple(found)


def client_of(peer: str, headers: Headers, proxies: Sequence[Network]) -> str:
    """The host that asks: the peer, or the last one in X-Forwarded-For that is not a trusted proxy itself.

    Each proxy adds the host that it was asked by at the end. What is before the first one that is not trusted may
    be made up.
    """
    host = _address(peer)
    if host is None or not _is_in(host, proxies):
        return peer
    forwarded = ",".join(headers.getlist("x-forwarded-for")).split(",")
    for text in reversed(forwarded):
        found = _address(text.strip())
        if found is None:
            break
        host = found
        if not _is_in(host, proxies):
            break
    return str(host)


def _is_in(host: ipaddress.IPv4Address | ipaddress.IPv6Address, proxies: Sequence[Network]) -> bool:
    return any(host in network for network in proxies)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        found = ipaddress.ip_address(text.strip("[]").partition("%")[0])
    except ValueError:
        return None
    mapped = getattr(found, "ipv4_mapped", None)
    return mapped or found
