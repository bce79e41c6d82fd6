"""Tests that have a rig."""

from __future__ import annotations

from typing import ClassVar

from twisted.trial.unittest import SynchronousTestCase

from tests.faults.rig import Rig


class RigCase(SynchronousTestCase):
    """With zpipe-worker, unless a subclass says that `example` is to be in its place."""

    example: ClassVar[bool] = False

    def setUp(self) -> None:
        self.rig = Rig(self.example)
        self.rig.__enter__()
        self.addCleanup(self.rig.close)
