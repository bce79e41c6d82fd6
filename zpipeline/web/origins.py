"""Which requests are for us: those that name a host of ours, and that no page of another site has sent.

A page can make its reader's browser send requests to any server that the browser reaches, one on that very machine
included. Browsers say who asks: by Sec-Fetch-Site (W3C Fetch Metadata), to servers whose connection they hold for
trustworthy (HTTPS, and loopback), and by Origin (RFC 6454) with whatever is not GET or HEAD. Other programs send
neither, and no page makes them do anything.

A page can also have a name of its own site lead to our address (DNS rebinding). To the browser that is the same site
then, and it says so. But it names that host. So hosts are served that are known: loopback names, any IP address, since
nobody can lead an address elsewhere, and the names that are given here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from zpipeline.web.asked import Asked
from zpipeline.web.problems import Problem

#: uri-host and port of RFC 3986, as far as any of it can be known.
_HOST = re.compile(rb"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(?::([0-9]*))?")

#: As many answers about hosts are remembered.
_REMEMBERED = 1000

#: What browsers say of who asks: a page of ours, or their user, by the address bar or a bookmark.
_OURS = (b"same-origin", b"none")


class Origins:
    """What is known of hosts and pages.

    :param hosts: names that lead here, beside those that do anyway.
    """

    def __init__(self, hosts: Iterable[str] = ()) -> None:
        self._names = {host.lower().rstrip(".") for host in hosts}
        self._known: dict[bytes, bool] = {}

    def refusal(self, request: Asked) -> Problem | None:
        """Why a request is not for us, if it is not."""
        values_of = request.requestHeaders.getRawHeaders
        hosts = values_of(b"host", ())
        host = hosts[0] if len(hosts) == 1 else b", ".join(hosts)
        if hosts:
            known = self._known.get(host)
            if known is None:
                known = self._look_at(host)
            if not known:
                return Problem(421, f"{host.decode('latin-1')!r} is none of this server's names: --host adds one")
        sites, origins = values_of(b"sec-fetch-site", ()), values_of(b"origin", ())
        if (sites or origins) and not _is_ours(host.lower(), sites, origins):
            why = "a page of another site sent this (if not, a proxy in front has to pass on the Host header)"
            return Problem(403, why)
        return None

    def _look_at(self, host: bytes) -> bool:
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        known = self._known[host] = self.knows(host)
        return known

    def knows(self, host: bytes) -> bool:
        """Whether this, from a Host header, is one of our names, whatever its port."""
        match = _HOST.fullmatch(host)
        if match is None:
            return False
        name = match[1].decode("ascii").lower()
        return is_address(name) or _is_loopback(name.rstrip(".")) or name.rstrip(".") in self._names


def is_host(name: str) -> bool:
    """Whether this can be the name of a host."""
    match = _HOST.fullmatch(name.encode("ascii", "replace"))
    return match is not None and match[2] is None


def hosts_of(description: str) -> list[str]:
    """The name in the description of a server endpoint (``tcp:4567:interface=NAME``), if there is one."""
    found = re.findall(r":interface=([^:\\]+)", description)
    return [name for name in found if is_host(name)]


def is_address(name: str) -> bool:
    """Whether a host is an IP address: ``127.0.0.1``, ``[::1]``."""
    try:
        if name.startswith("["):
            IPv6Address(name[1:-1])
        else:
            IPv4Address(name)
    except AddressValueError:
        return False
    return True


def _is_loopback(name: str) -> bool:
    """Names that lead to this machine, for every browser (RFC 6761, section 6.3)."""
    return name == "localhost" or name.endswith(".localhost")


def _is_ours(host: bytes, sites: Sequence[bytes], origins: Sequence[bytes]) -> bool:
    """Whether a page sent this that we have served, or a user without any page.

    :param host: that the request names, in lower case; empty when it names none.
    :param sites: what Sec-Fetch-Site says.
    :param origins: what Origin says.
    """
    is_our_origin = bool(host) and all(origin.partition(b"://")[2].lower() == host for origin in origins)
    if not sites:
        return is_our_origin
    # "same-site" is another port or another name of one domain: ours, if the origin is
    return all(site in _OURS or (site == b"same-site" and bool(origins) and is_our_origin) for site in sites)
