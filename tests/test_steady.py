"""Intervals while the wall clock is set: by two clocks of the test's own, and on real reactors."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from twisted.internet.error import AlreadyCalled, AlreadyCancelled
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import Clock, LoopingCall
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import SynchronousTestCase, TestCase
from zope.interface.verify import verifyObject

from tests.zmq_peers import ROOT
from zpipeline import steady as module
from zpipeline.pipeline import Pipeline
from zpipeline.steady import SteadyReactor, steady
from zpipeline.web import make_site
from zpipeline.worker import Worker

HOUR = 3600.0


class WallReactor(Clock):
    """A reactor that goes by the wall clock, which is the test's."""

    def __init__(self) -> None:
        super().__init__()
        self.rightNow = 1_000_000.0
        self.from_threads: list[Callable[[], object]] = []

    def callFromThread(self, call: Callable[[], object]) -> None:
        self.from_threads.append(call)


class SteadyCase(SynchronousTestCase):
    """Two clocks: the reactor's, and the monotonic one."""

    def setUp(self) -> None:
        self.now = 500.0
        self.wall = WallReactor()
        self.patch(module, "wall", self.wall.seconds)
        self.patch(module, "monotonic", lambda: self.now)
        self.patch(module, "_watch", module._Watch())
        self.patch(module._watch, "add", lambda reactor: None)  # no thread, unless a test is about that
        self.called: list[str] = []
        self.reactor: Any = steady(self.wall)

    def passes(self, seconds: float) -> None:
        """Time passes, by both clocks; then there are turns until there is nothing to be done."""
        self.now += seconds
        self.wall.rightNow += seconds
        self.turns()

    def turns(self) -> None:
        for _ in range(5):
            calls, self.wall.from_threads = self.wall.from_threads, []
            for call in calls:
                call()
            self.wall.advance(0)

    def is_set(self, seconds: float) -> None:
        """The wall clock is, so many seconds forward; and that is noticed."""
        self.wall.rightNow += seconds
        self.turns()
        self.reactor.set_again()

    def later(self, delay: float, name: str = "a") -> IDelayedCall:
        call: IDelayedCall = self.reactor.callLater(delay, self.called.append, name)
        return call


class ReactorsTests(SteadyCase):
    """Which reactors are given a proxy."""

    def test_a_reactor_that_does_not_go_by_the_wall_clock_is_left_alone(self) -> None:
        clock = Clock()
        self.assertIs(steady(clock), clock)
        self.wall.seconds = module.seconds  # type: ignore[method-assign]  # as in our commands
        self.assertIs(steady(self.wall), self.wall)

    def test_a_proxy_is_the_reactor_but_for_its_time(self) -> None:
        verifyObject(IReactorTime, self.reactor)
        self.later(1)
        self.assertEqual(len(self.reactor.getDelayedCalls()), 1)
        self.assertIs(self.reactor.from_threads, self.wall.from_threads)
        with self.assertRaises(AttributeError):
            self.reactor.no_such_thing  # noqa: B018

    def test_all_that_is_ours_goes_by_a_proxy(self) -> None:
        pipeline = Pipeline(self.wall, [], journal=None)
        site = make_site(pipeline, reactor=self.wall)
        worker = Worker(self.wall, print)
        for reactor in (pipeline._reactor, site.reactor, worker._reactor):
            self.assertIsInstance(reactor, SteadyReactor)


class CallTests(SteadyCase):
    """What waits while the clock is set."""

    def test_what_waits_is_called_when_it_is_due(self) -> None:
        self.later(5)
        self.passes(4.9)
        self.assertEqual(self.called, [])
        self.passes(0.1)
        self.assertEqual(self.called, ["a"])
        self.passes(HOUR)
        self.assertEqual(self.called, ["a"])

    def test_a_step_forward_makes_nothing_early(self) -> None:
        call = self.later(5)
        self.passes(1)
        self.is_set(HOUR)
        self.assertTrue(call.active())
        self.passes(3.9)
        self.assertEqual(self.called, [])
        self.passes(0.1)
        self.assertEqual(self.called, ["a"])

    def test_a_step_forward_that_nobody_has_noticed_makes_nothing_early(self) -> None:
        self.later(5)
        self.wall.rightNow += HOUR
        self.passes(4.9)
        self.assertEqual(self.called, [])
        self.passes(0.1)
        self.assertEqual(self.called, ["a"])

    def test_a_step_back_makes_nothing_late(self) -> None:
        self.later(5)
        self.passes(1)
        self.is_set(-HOUR)
        self.passes(3.9)
        self.assertEqual(self.called, [])
        self.passes(0.1)
        self.assertEqual(self.called, ["a"])

    def test_a_step_back_before_the_next_turn_does_not_hold_that_up(self) -> None:
        self.later(0)
        self.wall.rightNow -= HOUR
        self.turns()
        self.assertEqual(self.called, [])
        self.reactor.set_again()
        self.turns()
        self.assertEqual(self.called, ["a"])

    def test_what_a_step_back_held_up_is_called_in_order(self) -> None:
        names = [f"{number:02}" for number in range(50)]
        for name in names:
            self.later(float(name) / 1000, name)
        self.wall.rightNow -= HOUR
        self.passes(1)
        self.reactor.set_again()
        self.passes(0.001)
        self.assertEqual(self.called, names)

    def test_a_looping_call_neither_stops_nor_catches_up(self) -> None:
        call = LoopingCall(self.called.append, "tick")
        call.clock = self.reactor
        call.start(1.0, now=False)
        for step in (HOUR, -2 * HOUR, 0.3):
            self.is_set(step)
            for _ in range(10):
                self.passes(0.5)
        self.assertEqual(len(self.called), 15)

    def test_a_call_can_be_cancelled_and_is_not_called(self) -> None:
        call = self.later(5)
        verifyObject(IDelayedCall, call)
        call.cancel()
        self.assertFalse(call.active())
        self.is_set(HOUR)
        self.passes(HOUR)
        self.assertEqual((self.called, self.wall.getDelayedCalls()), ([], []))
        for refused in (call.cancel, lambda: call.reset(1), lambda: call.delay(1)):
            self.assertRaises(AlreadyCancelled, refused)

    def test_a_call_that_was_made_cannot_be_changed(self) -> None:
        call = self.later(0)
        self.passes(0)
        self.assertFalse(call.active())
        for refused in (call.cancel, lambda: call.reset(1), lambda: call.delay(1)):
            self.assertRaises(AlreadyCalled, refused)

    def test_a_call_is_reset_to_be_sooner_or_later(self) -> None:
        sooner, later = self.later(10, "sooner"), self.later(1, "later")
        self.passes(0.5)
        sooner.reset(2)
        later.reset(4)
        self.assertEqual([call.getTime() - self.reactor.seconds() for call in (sooner, later)], [2, 4])
        self.is_set(-HOUR)
        self.passes(1.9)
        self.assertEqual(self.called, [])
        self.passes(0.1)
        self.assertEqual(self.called, ["sooner"])
        self.passes(2)
        self.assertEqual(self.called, ["sooner", "later"])

    def test_a_call_is_delayed_from_when_it_was_due(self) -> None:
        call = self.later(5)
        self.passes(1)
        call.delay(2)
        self.is_set(HOUR)
        self.assertEqual(call.getTime(), self.reactor.seconds() + 6)
        call.delay(-4)
        self.passes(1.9)
        self.assertEqual(self.called, [])
        self.passes(0.1)
        self.assertEqual(self.called, ["a"])

    def test_a_call_that_came_early_can_be_changed_before_it_waits_again(self) -> None:
        changed, cancelled = self.later(5, "changed"), self.later(5, "cancelled")
        self.wall.rightNow += HOUR
        self.wall.advance(0)  # each has come, and waits again in the next turn
        self.assertEqual(len(self.wall.from_threads), 2)
        self.assertTrue(changed.active() and cancelled.active())
        changed.reset(2)
        cancelled.cancel()
        self.reactor.set_again()
        self.passes(1.9)
        self.assertEqual(self.called, [])
        self.passes(0.1)
        self.assertEqual(self.called, ["changed"])

    def test_a_call_may_cancel_what_was_due_with_it(self) -> None:
        other = self.later(6)
        self.reactor.callLater(5, other.cancel)
        self.passes(5)
        self.passes(5)
        self.assertEqual(self.called, [])


class WatchTests(SteadyCase):
    """The thread that notices."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(module, "TICK", 0.005)
        self.patch(module, "_watch", module._Watch())
        self.told = threading.Event()
        self.patch(self.wall, "callFromThread", lambda call: self.told.set())

    def threads(self) -> list[threading.Thread]:
        return [thread for thread in threading.enumerate() if thread.name == "zpipeline clock watch"]

    def test_a_clock_that_is_set_is_noticed_both_ways(self) -> None:
        self.later(5)
        for step in (HOUR, -HOUR, -0.5):
            self.told.clear()
            self.wall.rightNow += step
            self.assertTrue(self.told.wait(30))

    def test_there_is_one_thread_while_there_are_reactors_with_calls(self) -> None:
        before = self.threads()
        reactors = [steady(self.wall) for _ in range(3)]
        self.assertEqual(self.threads(), before, "nothing waits yet")
        for reactor in reactors:
            reactor.callLater(5, print)
        (thread,) = set(self.threads()) - set(before)
        self.assertTrue(thread.daemon)
        del reactors, reactor
        gc.collect()
        self.assertEqual(len(module._watch._reactors), 3, "they are held by what waits")
        self.wall.calls.clear()
        gc.collect()
        thread.join(30)
        self.assertFalse(thread.is_alive())
        self.later(5)
        self.assertEqual(len(set(self.threads()) - set(before)), 1, "it begins again")


FORK = """
import os, sys, threading
from twisted.internet import reactor
from zpipeline.steady import steady
clock = steady(reactor)
clock.callLater(0, print)
child = os.fork()
if child:
    sys.exit(os.waitpid(child, 0)[1])
clock.callLater(0, print)
os._exit([thread.name for thread in threading.enumerate()].count("zpipeline clock watch") - 1)
"""


class RealTests(TestCase):
    """On each reactor, in a process of its own."""

    timeout = 120

    async def run_program(self, *words: str) -> None:
        out, err, code = await getProcessOutputAndValue(sys.executable, words, dict(os.environ), str(ROOT))
        self.assertEqual((out, err, code), (b"", b"", 0), err.decode())

    async def run_on(self, name: str) -> None:
        for whose in ("commands", "embedded"):
            await self.run_program("-m", "tests.clock_scenario", name, whose)

    async def test_the_clock_is_set_on_the_epoll_reactor(self) -> None:
        await self.run_on("epoll")

    async def test_the_clock_is_set_on_the_poll_reactor(self) -> None:
        await self.run_on("poll")

    async def test_the_clock_is_set_on_the_select_reactor(self) -> None:
        await self.run_on("select")

    async def test_the_clock_is_set_on_the_asyncio_reactor(self) -> None:
        await self.run_on("asyncio")

    async def test_a_process_that_forks_is_watched_in_its_child(self) -> None:
        """As twistd does to become a daemon."""
        await self.run_program("-c", FORK)
