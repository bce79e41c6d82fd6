"""A short soak; `python -m tests.faults.soak` is the long one."""

from __future__ import annotations

import secrets

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.soak import soak

SECONDS = 15


class Soak(SynchronousTestCase):
    """Nothing is lost, whatever the faults."""

    def check(self, *, example: bool) -> None:
        seed = secrets.randbits(32)
        print(f"\nseed {seed}:", end=" ", flush=True)
        print(soak(SECONDS, seed, example=example))

    def test_with_zpipe_worker(self) -> None:
        """Faults of all kinds at random."""
        self.check(example=False)

    def test_with_the_example_worker(self) -> None:
        """And with a worker that was written from docs/protocol.rst alone."""
        self.check(example=True)
