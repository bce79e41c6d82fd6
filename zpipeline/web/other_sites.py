"""Whether a page of another site made somebody's browser send a request.

A page may POST to any server that its reader's browser reaches, one on that very machine included. Browsers say who
asks: by Sec-Fetch-Site (W3C Fetch Metadata) where they hold the connection for safe, and by Origin (RFC 6454) with
whatever is not GET or HEAD. Other programs send neither, and no page makes them do anything.
"""

from __future__ import annotations

from zpipeline.web.problems import Problem
from zpipeline.web.request import Request

_OWN = (b"same-origin", b"none")  # "none": its reader asked for it, by the address bar or a bookmark


def refuse_other_sites(request: Request) -> None:
    """Whatever this changes is not for pages of other sites.

    :raises Problem: 403 when one sent it.
    """
    sites = request.values(b"sec-fetch-site")
    if sites:
        is_own = all(site in _OWN for site in sites)
    else:
        hosts = [host.lower() for host in request.values(b"host")]
        is_own = all(origin.partition(b"://")[2].lower() in hosts for origin in request.values(b"origin"))
    if not is_own:
        raise Problem(403, "a page of another site sent this (if not, a proxy in front has to pass on the Host header)")
