"""The workers by their addresses, by itself; on sockets in test_observing."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from zpipeline.entry import Session
from zpipeline.histogram import Histogram, Timings
from zpipeline.pipeline.roster import Roster
from zpipeline.protocol import Ready
from zpipeline.stats import WorkerLatency, WorkerStatus, differing
from zpipeline.window import Window

A, B = "tcp://a:1", "tcp://b:1"
READY = Ready(5, 6, 2, "there", 77, "photos:resize", "1.2")
UNKNOWN = WorkerStatus(
    A, "connecting", None, 1.0, None, None, None, None, None, None, 0, 0, 0, 0, 0.0, 0.0, WorkerLatency()
)


def measured(*run: float) -> Timings:
    timings = Timings()
    timings.run.observe(run)
    return timings


class RosterTests(SynchronousTestCase):
    def setUp(self) -> None:
        self.roster = Roster([A, B], 1.0)
        self.session: Session | None = None
        self.trouble: str | None = None

    @property
    def status(self) -> WorkerStatus:
        return self.roster.statuses({A: (self.session, self.trouble)})[0]

    def is_ready(self, at: float = 2.0) -> None:
        self.roster[A].is_ready(READY, at)
        self.session = Session(5, Window(3), 0.0)

    def is_lost(self, at: float = 4.0) -> None:
        self.roster[A].is_lost(at)
        self.session, self.trouble = None, "disconnected"

    def test_before_it_is_ready_it_is_connecting_and_nothing_is_known(self) -> None:
        self.assertEqual(self.status, UNKNOWN)
        self.trouble = "connection refused"
        self.assertEqual(self.status, evolve(UNKNOWN, why="connection refused"))

    def test_they_are_told_in_the_order_in_which_they_were_named(self) -> None:
        self.assertEqual([status.address for status in self.roster.statuses({})], [A, B])

    def test_a_ready_one_says_who_it_is(self) -> None:
        self.is_ready()
        self.assertEqual(
            self.status,
            evolve(
                UNKNOWN,
                state="ready",
                since=2.0,
                host="there",
                pid=77,
                version="1.2",
                handler="photos:resize",
                concurrency=3,
                window=4,
            ),
        )

    def test_one_that_says_bye_is_leaving_and_then_has_left(self) -> None:
        self.is_ready()
        self.roster[A].leaves(3.0)
        self.assertEqual((self.status.state, self.status.since, self.status.why), ("leaving", 3.0, None))
        self.is_lost()
        self.assertEqual((self.status.state, self.status.since), ("lost", 4.0))
        self.assertEqual(self.status.why, "it was told to stop, and has left")

    def test_saying_bye_twice_is_leaving_once(self) -> None:
        self.is_ready()
        self.roster[A].leaves(3.0)
        self.roster[A].leaves(3.5)
        self.assertEqual(self.status.since, 3.0)

    def test_one_that_goes_without_a_word_is_lost_until_it_is_ready_again(self) -> None:
        self.is_ready()
        self.is_lost()
        self.assertEqual((self.status.state, self.status.why, self.status.window), ("lost", "disconnected", None))
        self.assertEqual((self.status.pid, self.status.concurrency), (77, 2))
        self.is_ready(5.0)
        self.assertEqual((self.status.state, self.status.why), ("ready", None))

    def test_why_one_left_is_forgotten_when_it_is_back(self) -> None:
        self.is_ready()
        self.roster[A].leaves(3.0)
        self.is_lost()
        self.is_ready(5.0)
        self.is_lost(6.0)
        self.assertEqual(self.status.why, "disconnected")

    def test_its_share_is_of_what_all_have_done(self) -> None:
        self.roster.tick(0.0)
        self.assertEqual(self.status.share, 0.0)
        self.roster[A].done += 10
        self.roster[B].done += 30
        self.roster.tick(1.0)
        self.assertEqual([status.share for status in self.roster.statuses({})], [0.25, 0.75])
        self.assertEqual([status.rate for status in self.roster.statuses({})], [10.0, 30.0])

    def test_what_it_measures_adds_up_over_its_sessions(self) -> None:
        self.is_ready()
        self.roster.tick(0.0)
        worker = self.roster[A]
        self.assertEqual(worker.measured(measured(0.2)), measured(0.2))
        self.assertEqual(worker.measured(measured(0.2, 4.0)).run.counts, measured(4.0).run.counts)
        self.is_ready()
        self.assertEqual(worker.measured(measured(0.2)), measured(0.2))
        self.assertEqual(worker.timings.run.counts, measured(0.2, 0.2, 4.0).run.counts)
        self.roster.tick(1.0)
        self.assertEqual(self.status.latency.run.p50, Histogram(counts=worker.timings.run.counts).quantile(0.5))

    def test_counts_that_become_less_within_a_session_change_nothing(self) -> None:
        self.is_ready()
        worker = self.roster[A]
        worker.measured(measured(0.2, 0.2))
        self.assertRaises(ValueError, worker.measured, measured(0.2))
        self.assertEqual(worker.timings, measured(0.2, 0.2))
        self.assertEqual(worker.measured(measured(0.2, 0.2)).run.total, 0)

    def test_handlers_that_differ_are_told_once_for_each_change(self) -> None:
        roster = Roster([A, B], 1.0)

        def comes(address: str, handler: str) -> str | None:
            roster[address].is_ready(evolve(READY, handler=handler), 2.0)
            return roster.new_difference()

        self.assertIsNone(comes(A, "photos:resize"))
        self.assertEqual(comes(B, "photos:crop"), "photos:resize at a:1; photos:crop at b:1")
        self.assertIsNone(roster.new_difference())
        roster[B].is_lost(3.0)
        self.assertIsNone(roster.new_difference())
        self.assertIsNone(comes(B, "photos:crop"), "it is back as it was")
        self.assertIsNone(comes(B, "photos:resize"), "it has been mended")
        self.assertEqual(comes(B, "photos:crop"), "photos:resize at a:1; photos:crop at b:1")

    def test_the_handler_of_a_worker_that_is_not_ready_differs_from_none(self) -> None:
        roster = Roster([A, B], 1.0)
        roster[A].is_ready(READY, 2.0)
        roster[A].leaves(3.0)
        roster[B].is_ready(evolve(READY, handler="photos:crop"), 4.0)
        self.assertIsNone(roster.new_difference())

    def test_a_plain_socket_has_no_handler_that_differs(self) -> None:
        roster = Roster([A, B], 1.0)
        roster[A].is_ready(READY, 2.0)
        roster[B].is_ready(None, 2.0)
        self.assertIsNone(roster.new_difference())


class DifferingTests(SynchronousTestCase):
    def test_of_many_some_are_named_and_the_rest_is_counted(self) -> None:
        ready = [(f"tcp://a:{number}", f"h{min(number, 7)}") for number in range(12)]
        self.assertEqual(differing(ready), "h0 at a:0; h1 at a:1; h2 at a:2; h3 at a:3; h4 at a:4; 3 more")
        self.assertEqual(differing(ready[6:]), "h6 at a:6; h7 at a:7, a:8, a:9, 2 more")

    def test_one_that_does_not_say_what_it_has_differs_from_nobody(self) -> None:
        self.assertIsNone(differing([("tcp://a:1", "h"), ("tcp://a:2", None), ("tcp://a:3", "h")]))
