"""How many file descriptors a web side may have, and how many of them are for HTTP connections.

setrlimit(2) has a soft limit, which is in force, and a hard one, up to which a process may raise it. The soft one is
1024 on most systems, for programs that call select(2), which knows no descriptors above that. A web side does not, so
it takes more. Its workers have what it had: their handlers may call select().
"""

from __future__ import annotations

import resource
from contextlib import suppress
from typing import Any

from twisted.internet.selectreactor import SelectReactor

#: No web side needs more.
_MOST = 65_536

#: What select(2) can watch (FD_SETSIZE).
_MOST_OF_SELECT = 1024

#: Connections, unless somebody says how many.
_MOST_CONNECTIONS = 10_000


def soft_limit() -> int:
    """How many descriptors this process may have now."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MOST if soft == resource.RLIM_INFINITY else soft


def raise_soft_limit(reactor: Any) -> int:
    """Let this process have as many descriptors as it is allowed and has a use for.

    :param reactor: that of Twisted that calls select() is given no more.
    :returns: how many the process may have, and the reactor can watch.
    """
    if isinstance(reactor, SelectReactor):
        return min(soft_limit(), _MOST_OF_SELECT)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _MOST if hard == resource.RLIM_INFINITY else min(hard, _MOST)
    if soft != resource.RLIM_INFINITY and soft < most:
        with suppress(OSError, ValueError):  # some systems have a bound below the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    return soft_limit()


def set_soft_limit(soft: int) -> None:
    """Let this process, and those that it starts, have so many descriptors, as far as it is allowed."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def most_connections(descriptors: int) -> int:
    """How many connections there may be, of a process that has so many descriptors: the others are for all else."""
    return max(1, min(descriptors // 2, _MOST_CONNECTIONS))
