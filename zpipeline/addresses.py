"""ZeroMQ addresses, ``tcp://HOST:PORT``: read, written and resolved."""

from __future__ import annotations

import re
from typing import Any

from twisted.internet.abstract import isIPAddress, isIPv6Address
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IHostnameResolver, IHostResolution, IResolutionReceiver
from zope.interface import implementer

from zpipeline.errors import UsageError

_ADDRESS = re.compile(r"tcp://(?:\[(?P<bracketed>[^\]]+)\]|(?P<host>[^:\[\]/\s]+)):(?P<port>\d{1,5}|\*)", re.ASCII)
WILDCARDS = frozenset({"*", "0.0.0.0", "::"})


def parse_address(address: str, *, bound: bool = False) -> tuple[str, str]:
    """Host (without brackets) and port of an address.

    :param bound: it is to be bound: a wildcard host, and ``*`` for a free port, are allowed.
    :raises UsageError: it is no such address.
    """
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise UsageError(f"{address!r} is not tcp://HOST:PORT, such as tcp://127.0.0.1:4444")
    host, port = match["bracketed"] or match["host"], match["port"]
    if port != "*" and not 1 <= int(port) <= 65535:
        raise UsageError(f"{address!r}: a port is from 1 to 65535")
    if not bound and (port == "*" or host in WILDCARDS):
        raise UsageError(f"{address!r}: to connect, name a host and a port")
    return host, port


def make_address(host: str, port: str | int) -> str:
    """The address of that host and port; IPv6 hosts get their brackets."""
    return f"tcp://[{host}]:{port}" if ":" in host else f"tcp://{host}:{port}"


def resolve(resolver: IHostnameResolver, host: str) -> Deferred[list[str]]:
    """The IP addresses of a host, in the resolver's order; none when it has none.

    libzmq would resolve names itself, but in the thread that all its sockets share, and says nothing when it fails.
    """
    if isIPAddress(host) or isIPv6Address(host):
        return succeed([host])
    try:
        host.encode("idna")
    except UnicodeError:
        # no DNS name (a label is empty or too long): getaddrinfo() would raise this, and the resolver never answer
        return succeed([])
    receiver = _Receiver()
    resolver.resolveHostName(receiver, host)
    return receiver.finished


@implementer(IResolutionReceiver)
class _Receiver:
    def __init__(self) -> None:
        self.finished: Deferred[list[str]] = Deferred()
        self._hosts: list[str] = []

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        pass

    def addressResolved(self, address: Any) -> None:
        if isinstance(address, IPv4Address | IPv6Address) and address.host not in self._hosts:
            self._hosts.append(address.host)

    def resolutionComplete(self) -> None:
        self.finished.callback(self._hosts)
