"""The journal: what is in its file and when, trouble with the file, opening it, and being killed."""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import rmtree, which
from typing import Any

from attrs import evolve, frozen
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.trial.unittest import SkipTest, SynchronousTestCase

from tests.faults.load import post
from tests.faults.rig import TWISTD, Rig, free_port
from tests.journal_kit import (
    EVERYTHING,
    LIMITS,
    MANY,
    NOW,
    JournalCase,
    Owner,
    dead,
    done,
    end,
    fill,
    job,
    jobs,
    letter,
    numbers,
    plain,
    tried,
    until,
)
from zpipeline import journal as journal_package
from zpipeline.entry import Entry
from zpipeline.errors import JournalError, JournalFull, KeyReused, Refused, UsageError
from zpipeline.journal import Journal, opening, tables, writer
from zpipeline.journal.opening import open_journal
from zpipeline.journal.schema import COUNTS, VERSION
from zpipeline.journal.tables import Tables
from zpipeline.journal.writer import Kind
from zpipeline.store import Facts, Key, Limits, Selection, Status

FIRST = (float("-inf"), 0)
_COUNTS = (
    "SELECT (SELECT count(*) FROM jobs), (SELECT coalesce(sum(length(body)), 0) FROM jobs), "
    "(SELECT count(*) FROM settled), (SELECT coalesce(sum(length(value)), 0) FROM results), "
    "(SELECT count(*) FROM dead), (SELECT count(*) FROM keys)"
)
_RESULTS_OF_NONE = (
    "SELECT count(*) FROM results LEFT JOIN settled USING (sequence) WHERE returned IS NOT 1 OR error IS NOT NULL"
)
_STORED = "SELECT value FROM meta WHERE name = ?"


class PageTests(JournalCase):
    """Jobs are read in pages."""

    async def pages(self, journal: Journal, most: int, most_bytes: int = MANY) -> list[list[int]]:
        """All pages of jobs that wait for their first attempt."""
        pages, after, more = [], 0, True
        while more:
            entries, more = await journal.load(after, most, most_bytes)
            pages.append(numbers(entries))
            after = entries[-1].sequence if entries else after
        return pages

    async def test_an_empty_journal_has_an_empty_page(self) -> None:
        self.assertEqual(await self.opened().load(0, 10, MANY), ([], False))

    async def test_jobs_come_as_they_were_accepted(self) -> None:
        journal = self.opened()
        await self.put(journal, job(5, b"\x00\xff body", at=NOW + 0.25))
        entries, _ = await journal.load(0, 10, MANY)
        self.assertEqual(plain(entries), plain([job(5, b"\x00\xff body", at=NOW + 0.25)]))

    async def test_pages_hold_so_many_jobs_in_order(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(9, 3, 7))
        await self.put(journal, *jobs(1, 8))
        self.assertEqual(await self.pages(journal, 2), [[1, 3], [7, 8], [9]])
        self.assertEqual(await self.pages(journal, 5), [[1, 3, 7, 8, 9]])

    async def test_pages_hold_about_so_many_bytes(self) -> None:
        journal = self.opened()
        await self.put(journal, *(job(number, b"x" * 100) for number in range(1, 8)))
        self.assertEqual(await self.pages(journal, 99, 250), [[1, 2, 3], [4, 5, 6], [7]])

    async def test_a_page_holds_a_job_however_large(self) -> None:
        journal = self.opened()
        await self.put(journal, *(job(number, b"x" * 100_000) for number in range(1, 4)))
        self.assertEqual(await self.pages(journal, 99, 10), [[1], [2], [3]])

    async def test_a_page_has_what_was_asked_to_be_accepted_before_and_no_more(self) -> None:
        journal = self.opened()
        answers = await gatherResults(
            [journal.accept(jobs(1, 2), None), journal.load(0, 9, MANY), journal.accept(jobs(3), None)]
        )
        self.assertEqual((numbers(answers[1][0]), answers[1][1]), ([1, 2], False))
        self.assertEqual(await self.pages(journal, 9), [[1, 2, 3]])

    async def test_what_was_settled_before_is_not_in_it(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2, 3, 4))
        facts = done(*jobs(1))
        facts.add(dead(*jobs(3)))
        journal.note(facts)
        self.assertEqual(await self.pages(journal, 9), [[2, 4]])

    async def test_a_struck_job_waits_with_its_strikes(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        journal.note(tried(job(2), NOW + 2, attempt=1, strikes=2, error="its worker died"))
        (entry,), _ = await journal.load_retries((0.0, 0), 9, MANY)
        self.assertEqual(plain([entry]), [(2, b"body", b'{"a":"b"}', NOW, 1, 2, NOW + 2, "its worker died")])

    async def retrying(self) -> Journal:
        """Jobs 1 to 6 wait for another attempt, in the order 5, 2, 3, 6, 1, 4; and 7 for its first."""
        journal = self.opened()
        await self.put(journal, *(job(number, b"x" * 100) for number in range(1, 8)))
        for number, due in ((1, 30.5), (2, 10.25), (3, 10.25), (4, 40.0), (5, 2.0), (6, 10.25)):
            journal.note(tried(job(number), NOW + due))
        return journal

    async def retry_pages(self, journal: Journal, most: int, most_bytes: int = MANY) -> list[list[int]]:
        """All pages of jobs that wait for another attempt."""
        pages, after, more = [], FIRST, True
        while more:
            entries, more = await journal.load_retries(after, most, most_bytes)
            pages.append(numbers(entries))
            after = entries[-1].due, entries[-1].sequence
        return pages

    async def test_retries_come_the_soonest_first(self) -> None:
        journal = await self.retrying()
        self.assertEqual(await self.retry_pages(journal, 2), [[5, 2], [3, 6], [1, 4]])
        self.assertEqual(await self.retry_pages(journal, 99, 250), [[5, 2, 3], [6, 1, 4]])
        self.assertEqual(await self.pages(journal, 99), [[7]])

    async def test_retries_come_with_what_is_known_of_them(self) -> None:
        journal = await self.retrying()
        (first,), more = await journal.load_retries((NOW + 30.5, 0), 1, MANY)
        self.assertEqual(plain([first]), [(1, b"x" * 100, b'{"a":"b"}', NOW, 2, 0, NOW + 30.5, "KeyError")])
        self.assertTrue(more)

    async def test_what_was_revived_waits_for_its_time(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        journal.note(dead(*jobs(1, 2)))
        await journal.revive(Selection(last=1), NOW + 3)
        entries, _ = await journal.load_retries(FIRST, 9, MANY)
        self.assertEqual(plain(entries), [(1, b"body", b'{"a":"b"}', NOW, 1, 0, NOW + 3, None)])
        self.assertEqual(await journal.status(1), Status("waiting", 1, NOW, None, None))

    async def test_unsettled_jobs_are_known(self) -> None:
        journal = await self.retrying()
        self.assertEqual(await journal.status(7), Status("waiting", 1, NOW, None, None))
        self.assertEqual(await journal.status(2), Status("retrying", 2, NOW, None, "KeyError"))

    async def test_a_job_is_known_to_who_asks_right_after_it(self) -> None:
        journal = self.opened()
        _, status = await gatherResults([journal.accept(jobs(1), None), journal.status(1)])
        self.assertEqual(status, Status("waiting", 1, NOW, None, None))

    async def test_of_many_dead_letters_so_many_are_revived_at_once_and_more_are_told_of(self) -> None:
        journal = self.opened()
        entries = [job(number) for number in range(1, 1206)]
        await self.put(journal, *entries)
        journal.note(dead(*entries))
        first, more = await journal.revive(EVERYTHING, NOW)
        self.assertEqual((numbers(first), more), (list(range(1, 1001)), True))
        rest, more = await journal.revive(Selection(after=1000), NOW)
        self.assertEqual((numbers(rest), more), (list(range(1001, 1206)), False))


class BooksCase(JournalCase):
    """Looks at what is counted."""

    def check_books(self) -> None:
        """What `meta` counts is there."""
        check_books(self, self.other())


def check_books(case: Any, connection: sqlite3.Connection) -> None:
    """What `meta` counts is there."""
    stored = tuple(connection.execute(_STORED, (name,)).fetchone()[0] for name in COUNTS)
    case.assertEqual(stored, connection.execute(_COUNTS).fetchone())
    case.assertEqual(connection.execute(_RESULTS_OF_NONE).fetchone(), (0,))


class CountTests(BooksCase):
    """What comes and goes is counted."""

    async def test_a_job_that_is_revived_and_settled_again_counts_once(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2, 3))
        journal.note(dead(*jobs(1, 2)))
        await journal.revive(EVERYTHING, NOW)
        self.check_books()
        facts = done(*jobs(1))
        facts.add(dead(*jobs(2)))
        journal.note(facts)
        await journal.letters(0, 1)
        self.check_books()

    async def test_what_has_been_kept_for_long_enough_is_deleted(self) -> None:
        journal = self.opened()
        await journal.accept(jobs(1), Key("a", b""))
        await self.put(journal, *jobs(2, 3))
        journal.note(done(*jobs(1, 2)))
        await journal.letters(0, 1)
        self.at(NOW + LIMITS.keep + 1)
        await journal.letters(0, 1)
        self.assertEqual(self.rows("SELECT (SELECT count(*) FROM settled), (SELECT count(*) FROM keys)"), [(0, 0)])
        self.check_books()


class ElsewhereTests(BooksCase):
    """Jobs that have been run, it is said, and are not in memory."""

    async def run_elsewhere(self, journal: Journal, *numbers: int) -> None:
        journal.note(Facts(elsewhere=[(number, NOW + 5) for number in numbers]))
        await journal.letters(0, 1)

    async def test_one_that_was_unsettled_is_done_and_told_of_with_its_size(self) -> None:
        journal = self.opened()
        await self.put(journal, job(1, b"12345"), job(2, b"123"), job(3))
        journal.note(tried(job(2), NOW + 60, attempt=4))
        await self.run_elsewhere(journal, 2, 1)
        self.assertEqual(sorted(self.owner.elsewhere), [(1, 5), (2, 3)])
        self.assertEqual(await journal.status(1), Status("done", 1, NOW, NOW + 5, None))
        self.assertEqual(await journal.status(2), Status("done", 4, NOW, NOW + 5, None))
        self.check_books()

    async def test_nothing_is_told_of_others(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        facts = done(*jobs(1))
        facts.add(dead(*jobs(2)))
        journal.note(facts)
        await journal.letters(0, 1)
        await self.run_elsewhere(journal, 1, 2, 99)
        self.assertEqual(self.owner.elsewhere, [])
        self.assertEqual(await journal.status(1), Status("done", 1, NOW, NOW, None))
        self.assertEqual((await journal.status(2)).state, "dead")
        self.check_books()

    async def test_one_that_is_said_twice_counts_once(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        await self.run_elsewhere(journal, 1, 1)
        await self.run_elsewhere(journal, 1)
        self.assertEqual(self.owner.elsewhere, [(1, 4)])
        self.check_books()

    async def test_one_that_is_read_and_done_meanwhile_counts_once(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        await self.run_elsewhere(journal, 1)
        journal.note(done(*jobs(1), at=NOW + 6))
        self.assertEqual((await journal.status(1)).settled_at, NOW + 5)
        self.assertEqual(self.owner.elsewhere, [(1, 4)])
        self.check_books()

    async def test_nothing_is_told_of_one_that_is_done_in_the_same_transaction(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        journal.note(Facts(elsewhere=[(1, NOW + 5)]))
        journal.note(done(*jobs(1), at=NOW + 6))
        self.assertEqual(await journal.status(1), Status("done", 1, NOW, NOW + 6, None))
        self.assertEqual(self.owner.elsewhere, [])
        self.check_books()

    async def result_of(self, journal: Journal, number: int) -> bytes | None:
        """What is kept of it."""
        outcome = await journal.outcome(number, NOW)
        assert outcome is not None
        return outcome.result

    async def test_its_result_is_kept(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        journal.note(Facts(elsewhere=[(1, NOW), (2, NOW)], results={1: b"bx"}))
        self.assertEqual([await self.result_of(journal, number) for number in (1, 2)], [b"bx", None])
        self.check_books()

    async def test_of_one_that_is_done_again_the_first_result_stays(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2, 3))
        journal.note(Facts(elsewhere=[(1, NOW), (2, NOW)], results={1: b"b1", 2: b"b2"}))
        journal.note(done(*jobs(1), results={1: b"bother"}))
        await journal.letters(0, 1)
        journal.note(Facts(elsewhere=[(2, NOW)], results={2: b"bother"}))
        journal.note(done(*jobs(1), results={1: b"bother"}))
        self.assertEqual([await self.result_of(journal, number) for number in (1, 2)], [b"b1", b"b2"])
        self.check_books()

    async def test_one_that_was_done_does_not_die(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        await self.run_elsewhere(journal, 1)
        journal.note(dead(*jobs(1)))
        journal.note(tried(job(1), NOW + 9))
        self.assertIsNone(await journal.letter(1))
        self.assertEqual((await journal.status(1)).state, "done")
        self.check_books()


class Books(RuleBasedStateMachine):
    """Random transactions, some of which are undone, and the journal opened again now and then."""

    any_job = st.integers(1, 60)
    any_result = st.binary(min_size=1, max_size=30)
    times = st.integers(0, 50).map(lambda seconds: NOW + seconds)

    @initialize()
    def begin(self) -> None:
        self.folder = tempfile.mkdtemp()
        self.case = SynchronousTestCase()
        self.case.maxDiff = None
        self.now = NOW
        self.next = 1
        self.epoch = 0
        self.jobs: dict[int, tuple[Any, ...]] = {}
        self.dead: dict[int, tuple[Any, ...]] = {}
        self.keys: dict[str, int] = {}
        self.bodies: dict[int, bytes] = {}
        self.results: dict[int, bytes] = {}
        self.settled_at: dict[int, float] = {}
        self.reopen()

    def reopen(self) -> None:
        self.connection, opened = open_journal(self.folder + "/jobs")
        self.epoch += 1
        sizes = [len(row[1]) for row in self.jobs.values()]
        self.case.assertEqual(
            (opened.epoch, opened.pending, opened.pending_bytes), (self.epoch, len(sizes), sum(sizes))
        )
        self.tables = Tables(self.connection, Limits(keep=20.0, most_settled=15, most_keys=4, most_result_bytes=80))

    def teardown(self) -> None:
        if hasattr(self, "tables"):
            self.tables.close()
            rmtree(self.folder)

    @contextmanager
    def transaction(self, undo: bool = False) -> Iterator[Tables]:
        before = [dict(model) for model in (self.jobs, self.dead, self.keys, self.results, self.settled_at)]
        self.tables.begin()
        yield self.tables
        self.tables.tidy(self.now)
        self.tables.finish()
        if undo:
            self.tables.rollback()
            self.jobs, self.dead, self.keys, self.results, self.settled_at = before
        else:
            self.tables.commit()

    @rule(bodies=st.lists(st.binary(max_size=20), min_size=1, max_size=4) | st.just([b"y"] * 230), undo=st.booleans())
    def accept(self, bodies: list[bytes], undo: bool) -> None:
        with self.transaction(undo) as tables:
            entries = [job(self.next + place, body) for place, body in enumerate(bodies)]
            tables.accept(entries, None, self.now)
            self.jobs |= {row[0]: row for row in plain(entries)}
            self.bodies |= {entry.sequence: entry.body for entry in entries}
        self.next += len(bodies)

    @rule(name=st.sampled_from("abcdef"), body=st.binary(max_size=9), undo=st.booleans())
    def accept_with_key(self, name: str, body: bytes, undo: bool) -> None:
        with self.transaction(undo) as tables:
            entry = job(self.next, body)
            self.bodies[self.next] = body
            try:
                holder = tables.accept([entry], Key(name, body[:1]), self.now)
            except Refused:
                pass
            else:
                if holder is None:
                    self.jobs[entry.sequence] = plain([entry])[0]
                    self.keys[name] = entry.sequence
                else:
                    self.case.assertEqual(holder, self.keys[name])
        self.next += 1

    @rule(
        tried_=st.lists(st.tuples(any_job, times)),
        done_=st.lists(any_job),
        elsewhere_=st.lists(any_job),
        dead_=st.lists(any_job),
        results=st.dictionaries(any_job, any_result),
        undo=st.booleans(),
    )
    def write(self, tried_: Any, done_: Any, elsewhere_: Any, dead_: Any, results: Any, undo: bool) -> None:
        unsettled = set(self.jobs)
        with self.transaction(undo) as tables:
            facts = Facts()
            for number, due in tried_:
                facts.add(tried(self.entry(number), due))
                if number in self.jobs:
                    self.jobs[number] = (*self.jobs[number][:4], 2, 0, due, "KeyError")
            facts.add(done(*map(self.entry, done_), at=self.now))
            facts.add(Facts(elsewhere=[(number, self.now) for number in elsewhere_]))
            facts.add(dead(*map(self.entry, dead_), at=self.now))
            facts.add(Facts(results=results))
            told = tables.write(facts)
            for number in done_:
                if self.jobs.pop(number, None) and number in results:
                    self.results[number] = results[number]
            for number in dead_:
                if self.jobs.pop(number, None):
                    self.dead[number] = letter(self.entry(number), self.now)
            said = set(elsewhere_) & set(self.jobs)
            self.case.assertEqual(sorted(told), sorted((number, len(self.jobs.pop(number)[1])) for number in said))
            self.results |= {number: results[number] for number in said if number in results}
            self.settled_at |= dict.fromkeys(unsettled - set(self.jobs), self.now)

    def entry(self, number: int) -> Entry:
        """A job of this number, which may never have been."""
        return job(number, self.bodies.get(number, b"gone"))

    @rule(after=any_job, last=any_job, most=st.integers(1, 5), at=times, undo=st.booleans())
    def revive(self, after: int, last: int, most: int, at: float, undo: bool) -> None:
        with self.transaction(undo) as tables:
            entries, more = tables.revive(Selection(after=after, last=last), at, most, MANY)
            chosen = sorted(number for number in self.dead if after < number <= last)
            self.case.assertEqual((numbers(entries), more), (chosen[:most], len(chosen) > most))
            for entry in entries:
                del self.dead[entry.sequence]
                del self.settled_at[entry.sequence]
                self.jobs[entry.sequence] = plain([entry])[0]

    @rule(number=any_job, undo=st.booleans())
    def drop(self, number: int, undo: bool) -> None:
        with self.transaction(undo) as tables:
            self.case.assertEqual(tables.drop(number), self.dead.pop(number, None) is not None)

    @rule(seconds=st.integers(1, 30))
    def time_passes(self, seconds: int) -> None:
        self.now += seconds
        with self.transaction():
            pass

    @rule()
    def open_again(self) -> None:
        self.tables.close()
        self.reopen()

    @invariant()
    def counts_are_right(self) -> None:
        if hasattr(self, "tables"):
            check_books(self.case, self.connection)

    @invariant()
    def everything_is_there(self) -> None:
        if not hasattr(self, "tables"):
            return
        self.tables.begin()
        self.tables.insert_new()
        fresh, _ = self.tables.load(0, MANY, MANY)
        retrying, _ = self.tables.load_retries(FIRST, MANY, MANY)
        letters = [self.tables.letter(each.sequence) for each in self.tables.letters(0, MANY)]
        self.tables.commit()
        expected = sorted(self.jobs.values())
        self.case.assertEqual(plain(fresh), [row for row in expected if row[6] is None])
        self.case.assertEqual(
            plain(retrying), sorted((row for row in expected if row[6] is not None), key=lambda row: (row[6], row[0]))
        )
        self.case.assertEqual(letters, [self.dead[number] for number in sorted(self.dead)])
        # what is kept of settled jobs was settled last, however early it was accepted
        settled = dict(self.connection.execute("SELECT sequence, returned FROM settled"))
        last_gone = max([at for number, at in self.settled_at.items() if number not in settled], default=0.0)
        self.case.assertLessEqual(last_gone, min([self.settled_at[number] for number in settled], default=last_gone))
        self.case.assertLessEqual(len(settled), 15)
        # what is kept of results is right, and no more than may be; of those that are gone no job was settled later
        kept = dict(self.connection.execute("SELECT sequence, value FROM results"))
        self.case.assertEqual(kept, {number: self.results[number] for number in kept})
        self.case.assertLessEqual(sum(map(len, kept.values())), 80)
        for number, returned in settled.items():
            self.case.assertEqual(bool(returned), number in self.results)
        gone = [self.settled_at[number] for number, returned in settled.items() if returned and number not in kept]
        last_gone = max(gone, default=0.0)
        self.case.assertLessEqual(last_gone, min([self.settled_at[number] for number in kept], default=last_gone))
        # a key is there for as long as its job is unsettled
        found = dict(self.connection.execute("SELECT name, sequence FROM keys"))
        for name, number in self.keys.items():
            if number in self.jobs:
                self.case.assertEqual(found.get(name), number)
        self.case.assertLessEqual(len(found), 4)


class BooksTests(SynchronousTestCase):
    def test_counts_and_content_are_right_after_random_transactions(self) -> None:
        run_state_machine_as_test(Books, settings=settings(max_examples=60, stateful_step_count=30, deadline=None))


class ResultTests(BooksCase):
    """What jobs have returned."""

    async def test_it_outlives_the_process(self) -> None:
        journal = self.journal()
        journal.open(self.owner)
        await self.put(journal, *jobs(1, 2))
        journal.note(done(*jobs(1, 2), results={1: b"bx"}))
        await journal.close()
        outcome = await self.opened().outcome(1, NOW)
        self.assertEqual(outcome and (outcome.returned, outcome.result), (True, b"bx"))
        self.check_books()

    async def test_it_is_deleted_with_its_job(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2, 3))
        journal.note(done(*jobs(1, 2), results={1: b"b1", 2: b"b2"}))
        await journal.letters(0, 1)
        self.at(NOW + LIMITS.keep + 1)
        await journal.letters(0, 1)
        self.assertEqual(self.rows("SELECT count(*) FROM results"), [(0,)])
        self.check_books()

    async def test_it_may_be_large(self) -> None:
        self.limits = evolve(LIMITS, most_result_bytes=MANY)
        journal = self.opened()
        await self.put(journal, *jobs(*range(1, 101)))
        large = b"b" + b"x" * (1 << 20)
        journal.note(done(*jobs(*range(1, 101)), results=dict.fromkeys(range(1, 101), large)))
        outcome = await journal.outcome(70, NOW)
        self.assertEqual(outcome and outcome.result, large)
        self.check_books()

    async def test_dead_letters_are_counted_across_a_restart(self) -> None:
        journal = self.journal()
        journal.open(self.owner)
        await self.put(journal, *jobs(1, 2, 3))
        journal.note(dead(*jobs(1, 2)))
        await journal.drop(1)
        await journal.close()
        self.assertEqual(journal.dead, 0, "it is closed")
        self.assertEqual(self.opened().dead, 1)

    async def test_too_many_bytes_of_results_that_cannot_be_written_congest_it(self) -> None:
        self.patch(writer, "MOST_UNWRITTEN_BYTES", 100)
        journal = self.opened()
        await self.put(journal, *jobs(1, 2, 3))
        other = self.other()
        other.execute("BEGIN IMMEDIATE")
        journal.note(done(*jobs(1), results={1: b"b" * 90}))
        await until(lambda: journal.trouble, "it is in trouble")
        self.assertFalse(journal.congested)
        journal.note(done(*jobs(2), results={2: b"b" * 20}))
        self.assertTrue(journal.congested)
        other.execute("COMMIT")
        await self.owner.recovered
        self.assertFalse(journal.congested)


class TransactionTests(BooksCase):
    """What goes into one transaction."""

    def statements(self, journal: Journal) -> list[str]:
        """What the journal says to SQLite from now on."""
        said: list[str] = []
        self.connection(journal).set_trace_callback(said.append)
        return said

    async def test_what_one_turn_asks_for_is_one_transaction(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        said = self.statements(journal)
        journal.note(done(*jobs(1)))
        waiting: list[Deferred[Any]] = [journal.accept(jobs(number), None) for number in range(10, 60)]
        journal.note(done(*jobs(2)))
        waiting.append(journal.load(0, 9, MANY))
        await gatherResults(waiting)
        self.assertEqual(said.count("COMMIT"), 1)
        self.check_books()

    async def test_what_comes_while_one_is_written_is_one_more(self) -> None:
        journal = self.opened()
        said = self.statements(journal)
        held, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)

        def hold(tables: Tables) -> None:
            held.set()
            go.wait()

        first = journal._ask(hold, Kind.LONG)
        await until(held.is_set, "the transaction has begun")
        waiting = []
        for number in range(1, 20):
            waiting.append(journal.accept(jobs(number), None))
            await deferLater(reactor, 0)
        go.set()
        await gatherResults([first, *waiting])
        self.assertEqual(said.count("COMMIT"), 2)

    async def test_nothing_is_answered_before_the_commit_is_through(self) -> None:
        at_disk, go = threading.Event(), threading.Event()
        self.addCleanup(go.set)
        commits: list[str] = []
        commit = Tables.commit

        def wait(tables: Tables) -> None:
            commits.append(threading.current_thread().name)
            at_disk.set()
            go.wait()
            commit(tables)

        self.patch(Tables, "commit", wait)
        journal = self.opened()
        accepted = journal.accept(jobs(1), None)
        await until(at_disk.is_set, "it is being committed")
        self.assertEqual(self.rows("SELECT sequence FROM jobs"), [])
        self.assertNoResult(accepted)
        later = journal.accept(jobs(2), None)
        go.set()
        await accepted
        await later
        self.assertEqual(commits, ["zpipeline journal"] * 2)

    async def test_when_the_disk_may_wait_it_is_committed_at_once(self) -> None:
        journal = self.opened("normal")
        accepted = journal.accept(jobs(1), None)
        await deferLater(reactor, 0)
        self.assertIsNone(self.successResultOf(accepted))

    async def test_the_log_is_brought_into_the_file_now_and_then(self) -> None:
        self.patch(tables, "_CHECKPOINT_PAGES", 30)
        journal = self.opened()
        said = self.statements(journal)
        for number in range(1, 40):
            await self.put(journal, job(number))
        self.assertIn(said.count("PRAGMA wal_checkpoint(PASSIVE)"), (7, 8, 9, 10))
        self.assertLess(os.path.getsize(f"{self.path}-wal"), 60 * 4096)

    async def test_what_is_much_is_not_written_in_the_reactors_thread(self) -> None:
        self.patch(journal_package, "MOST_QUICK", 3)
        self.patch(writer, "MOST_QUICK", 3)
        journal = self.opened()
        threads: list[str] = []
        finish = Tables.finish

        def finished(tables: Tables) -> None:
            threads.append(threading.current_thread().name)
            finish(tables)

        self.patch(Tables, "finish", finished)
        entries = jobs(*range(1, 8))
        await self.put(journal, *entries[:3])
        await self.put(journal, *entries[3:])
        journal.note(done(*entries[:3]))
        await journal.status(1)
        journal.note(done(*entries[3:]))
        await journal.status(4)
        here, there = threading.current_thread().name, "zpipeline journal"
        self.assertEqual(threads, [here, there, here, there])
        self.check_books()

    async def test_a_log_that_cannot_be_brought_into_the_file_is_no_trouble(self) -> None:
        self.patch(tables, "_CHECKPOINT_PAGES", 1)
        journal = self.opened()

        def fail(tables: Tables) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        self.patch(Tables, "checkpoint", fail)
        await self.put(journal, job(1))
        self.assertIsNone(journal.trouble)

    async def test_facts_alone_are_written_too(self) -> None:
        journal = self.opened()
        await self.put(journal, job(1))
        journal.note(done(job(1)))
        await until(lambda: self.rows("SELECT sequence FROM settled") == [(1,)], "the fact is written")

    async def test_a_job_is_in_the_file_when_it_is_accepted(self) -> None:
        journal = self.opened()
        for number in range(1, 20):
            await self.put(journal, job(number))
            self.assertEqual(self.rows("SELECT max(sequence) FROM jobs"), [(number,)])

    async def test_one_that_is_refused_does_not_touch_the_others(self) -> None:
        journal = self.opened()
        answers = [
            journal.accept(jobs(1), Key("a", b"1")),
            self.assertFailure(journal.accept(jobs(2), Key("a", b"2")), KeyReused),
            journal.accept(jobs(3, 4), None),
        ]
        await gatherResults(answers)
        entries, _ = await journal.load(0, 9, MANY)
        self.assertEqual(numbers(entries), [1, 3, 4])
        self.assertIsNone(journal.trouble)
        self.check_books()


class TroubleTests(BooksCase):
    """The file cannot be written."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(writer, "RETRY_SECONDS", 0.01)
        self.patch(opening, "PATIENCE", 0.05)

    async def refusal(self, answer: Deferred[Any], kind: type[Exception] = JournalError) -> str:
        """What it is refused with."""
        error = await self.assertFailure(answer, kind)
        self.assertNotIn("\n", str(error))
        self.assertIn(str(self.path), str(error))
        return str(error)

    def hold(self) -> sqlite3.Connection:
        """Another program begins a transaction."""
        other = self.other()
        other.execute("BEGIN IMMEDIATE")
        return other

    async def test_a_request_that_cannot_be_written_is_refused_alone(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        journal.note(done(*jobs(2)))
        first = journal.accept(jobs(3), Key("a", b""))
        wrong = journal.accept(jobs(4, 5, 1), None)  # a number that is there
        page = journal.load(0, 9, MANY)
        last = journal.accept(jobs(6), None)
        self.assertIn("UNIQUE constraint failed", await self.refusal(wrong))
        self.assertEqual([await first, await last], [None, None])
        self.assertEqual(numbers((await page)[0]), [1, 3])
        self.assertEqual(len(self.flushLoggedErrors(sqlite3.IntegrityError)), 1)
        self.assertIsNone(journal.trouble)
        entries, _ = await journal.load(0, 9, MANY)
        self.assertEqual(numbers(entries), [1, 3, 6])
        self.assertEqual((await journal.status(2)).state, "done")
        self.check_books()

    async def test_a_batch_that_does_not_fit_is_refused_and_facts_are_written(self) -> None:
        journal = self.opened()
        await self.put(journal, job(1, b"x" * 100_000), job(2))
        pages = self.connection(journal).execute("PRAGMA page_count").fetchone()[0]
        self.connection(journal).execute(f"PRAGMA max_page_count={pages + 1}")
        journal.note(done(*jobs(2)))
        why = await self.refusal(journal.accept([job(3), job(4, b"x" * 100_000)], None), JournalFull)
        self.assertIn("there is no room on its disk", why)
        await self.owner.recovered
        self.assertIsNone(journal.trouble)
        self.assertEqual(self.rows("SELECT sequence FROM jobs"), [(1,)])
        self.assertEqual(self.rows("SELECT sequence FROM settled"), [(2,)])
        self.check_books()
        # what is done makes room
        journal.note(done(job(1)))
        await self.put(journal, job(5, b"x" * 90_000))

    async def test_a_full_disk_is_named_until_there_is_room(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2, 3))
        connection = self.connection(journal)
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count={pages}")
        journal.note(dead(job(1), traceback="x" * 100_000))  # a fact that does not fit
        await self.refusal(journal.accept(jobs(4), None), JournalFull)
        await self.refusal(journal.accept(jobs(5), None), JournalFull)
        await self.refusal(journal.load(0, 9, MANY), JournalFull)
        self.assertIn(f"the journal {self.path}: there is no room on its disk", journal.trouble)
        journal.note(done(job(2)))
        self.assertFalse(self.owner.recovered.called)
        connection.execute(f"PRAGMA max_page_count={1 << 30}")
        await self.owner.recovered
        self.assertIsNone(journal.trouble)
        self.assertEqual(self.rows("SELECT sequence, error FROM settled"), [(1, "KeyError: 1"), (2, None)])
        await self.put(journal, job(6))
        self.assertEqual(self.rows("SELECT sequence FROM jobs"), [(3,), (6,)])
        self.check_books()

    async def test_a_lock_of_another_program_is_named_until_it_goes(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        other = self.hold()
        journal.note(done(job(1)))
        why = await self.refusal(journal.accept(jobs(3), None))
        self.assertIn("another program holds it", why)
        self.assertEqual(journal.trouble, why)
        await self.refusal(journal.load(0, 9, MANY))
        self.assertEqual((await journal.status(1)).state, "waiting")  # as the file stands
        self.assertEqual(await journal.letters(0, 1), [])
        self.assertIsNone(await journal.letter(1))
        journal.note(tried(job(2), NOW + 3))
        self.assertEqual(self.rows("SELECT sequence FROM jobs"), [(1,), (2,)])
        other.execute("ROLLBACK")
        await self.owner.recovered
        self.assertIsNone(journal.trouble)
        self.assertEqual(self.rows("SELECT sequence, due FROM jobs"), [(2, NOW + 3)])
        self.assertEqual(self.rows("SELECT sequence FROM settled"), [(1,)])
        self.check_books()

    async def test_a_lock_of_another_program_does_not_hold_up_the_reactor(self) -> None:
        self.patch(opening, "PATIENCE", 30.0)
        journal = self.opened()
        other = self.hold()
        accepted = journal.accept(jobs(1), None)
        for _ in range(100):
            await deferLater(reactor, 0)
        self.assertNoResult(accepted)
        self.assertIsNone(journal.trouble)
        other.execute("ROLLBACK")
        self.assertIsNone(await accepted)

    async def test_trouble_is_not_over_before_something_could_be_written(self) -> None:
        journal = self.opened()
        connection = self.connection(journal)
        said: list[str] = []

        def refuse_changes(action: int, *_: object) -> int:
            is_change = action in (sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_DELETE)
            return sqlite3.SQLITE_DENY if is_change else sqlite3.SQLITE_OK

        connection.set_authorizer(refuse_changes)
        await self.refusal(journal.accept(jobs(1), None))
        connection.set_trace_callback(said.append)
        await until(lambda: said.count("ROLLBACK") >= 3 or not journal.trouble, "it is tried a few times")
        self.assertIsNotNone(journal.trouble)
        connection.set_authorizer(None)
        await self.owner.recovered
        await self.put(journal, job(1))

    async def test_trouble_is_seen_when_there_are_only_facts(self) -> None:
        journal = self.opened()
        await self.put(journal, job(1))
        other = self.hold()
        journal.note(done(job(1)))
        await until(lambda: journal.trouble, "the trouble is seen")
        other.execute("ROLLBACK")
        await self.owner.recovered

    async def test_too_many_unwritten_facts_congest_it_while_they_are_tried_as_well(self) -> None:
        self.patch(writer, "MOST_UNWRITTEN", 5)
        journal = self.opened()
        entries = jobs(*range(1, 10))
        await self.put(journal, *entries)
        other = self.hold()
        journal.note(done(*entries[:5]))
        await until(lambda: journal.trouble, "the trouble is seen")
        self.assertFalse(journal.congested)
        journal.note(done(entries[5]))
        self.assertTrue(journal.congested)
        seen: list[bool] = []
        self.connection(journal).set_trace_callback(lambda statement: seen.append(journal.congested))
        await until(lambda: len(seen) >= 3, "it is tried a few times")
        self.assertEqual(set(seen[:3]), {True})
        self.connection(journal).set_trace_callback(None)
        other.execute("ROLLBACK")
        await self.owner.recovered
        self.assertFalse(journal.congested)
        self.assertEqual(self.rows("SELECT count(*) FROM settled"), [(6,)])

    async def test_facts_in_plenty_are_no_congestion_while_they_can_be_written(self) -> None:
        self.patch(writer, "MOST_UNWRITTEN", 5)
        journal = self.opened()
        entries = jobs(*range(1, 10))
        await self.put(journal, *entries)
        journal.note(done(*entries))
        self.assertFalse(journal.congested)

    async def test_a_defect_refuses_what_was_asked_and_the_writer_lives(self) -> None:
        journal = self.opened()
        await self.put(journal, job(1))
        journal.note(done(job(1)))
        await self.refusal(journal._ask(lambda tables: 1 // 0, Kind.CHANGE))
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.assertIsNone(journal.trouble)
        self.assertEqual((await journal.status(1)).state, "done")

    async def test_what_is_left_is_written_at_the_end(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        journal.note(done(job(1)))
        accepted = journal.accept(jobs(3), None)
        self.assertEqual(await journal.close(), 0)
        self.assertIsNone(await accepted)
        self.assertEqual(self.rows("SELECT sequence FROM jobs"), [(2,), (3,)])
        self.assertEqual(self.rows("SELECT sequence FROM settled"), [(1,)])
        self.check_books()

    async def test_what_trouble_has_held_up_is_tried_once_more_at_the_end(self) -> None:
        self.patch(writer, "RETRY_SECONDS", 600.0)
        journal = self.opened()
        await self.put(journal, *jobs(1, 2))
        other = self.hold()
        journal.note(done(job(1)))
        await until(lambda: journal.trouble, "the trouble is seen")
        other.execute("ROLLBACK")
        self.assertEqual(await journal.close(), 0)
        self.assertEqual(self.rows("SELECT sequence FROM settled"), [(1,)])

    async def test_what_cannot_be_written_at_the_end_is_counted(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2, 3, 4))
        self.hold()
        journal.note(done(*jobs(1, 2)))
        await until(lambda: journal.trouble, "the trouble is seen")
        journal.note(done(*jobs(3)))
        accepted = self.assertFailure(journal.accept(jobs(5), None), JournalError)
        self.assertEqual(await journal.close(), 3)
        await accepted

    async def test_nothing_is_accepted_after_the_end_has_begun(self) -> None:
        journal = self.opened()
        closed = journal.close()
        await self.refusal(journal.accept(jobs(1), None))
        await closed
        await self.refusal(journal.accept(jobs(1), None))
        self.assertEqual(self.rows("SELECT count(*) FROM jobs"), [(0,)])


class OpeningTests(JournalCase):
    """Opening a file, whatever it is."""

    def setUp(self) -> None:
        super().setUp()
        self.patch(opening, "PATIENCE", 0.05)

    def refused(self, path: Path | None = None) -> str:
        """What is said when it cannot be opened: one line that names the file, which is as it was before."""
        path = path or self.path
        before = path.read_bytes() if path.is_file() else None
        journal = Journal(reactor, str(path), self.times, synchronous="full", limits=LIMITS)
        said = str(self.assertRaises(UsageError, journal.open, Owner()))
        self.assertNotIn("\n", said)
        self.assertIn(str(path), said)
        self.assertEqual(path.read_bytes() if path.is_file() else None, before)
        return said

    async def test_a_new_one_is_empty(self) -> None:
        journal = self.journal()
        opened = journal.open(self.owner)
        self.assertEqual((opened.pending, opened.pending_bytes), (0, 0))
        self.assertLess(opened.ventilator, 1 << 63)
        await journal.close()

    async def test_each_has_a_number_of_its_own(self) -> None:
        numbers = set()
        for name in "abc":
            self.path = self.folder / name
            journal = self.journal()
            numbers.add(journal.open(self.owner).ventilator)
            await journal.close()
        self.assertEqual(len(numbers), 3)

    async def test_what_was_left_is_there_and_the_openings_are_counted(self) -> None:
        journal = self.journal()
        first = journal.open(self.owner)
        await self.put(journal, job(1, b"12345"), job(2, b"123"), job(3))
        journal.note(done(job(3)))
        await journal.close()
        for times in (1, 2, 3):
            journal = self.journal()
            again = journal.open(self.owner)
            self.assertEqual((again.ventilator, again.epoch), (first.ventilator, first.epoch + times))
            self.assertEqual((again.pending, again.pending_bytes), (2, 8))
            entries, _ = await journal.load(0, 9, MANY)
            self.assertEqual(plain(entries), plain([job(1, b"12345"), job(2, b"123")]))
            await journal.close()

    async def test_keys_outlive_the_process(self) -> None:
        journal = self.journal()
        journal.open(self.owner)
        await journal.accept(jobs(1), Key("a", b"print"))
        await journal.close()
        journal = self.opened()
        self.assertEqual(await journal.accept(jobs(2), Key("a", b"print")), 1)
        await self.assertFailure(journal.accept(jobs(2), Key("a", b"other")), KeyReused)

    async def test_an_empty_file_becomes_one(self) -> None:
        self.path.touch()
        await self.put(self.opened(), job(1))

    async def test_the_log_is_kept_ahead_of_the_file(self) -> None:
        journal = self.opened()
        self.assertEqual(self.connection(journal).execute("PRAGMA journal_mode").fetchone(), ("wal",))

    async def filled(self) -> None:
        """A journal with jobs, closed."""
        journal = self.journal()
        journal.open(self.owner)
        await self.put(journal, *(job(number, b"x" * 5000) for number in range(1, 100)))
        await journal.close()

    async def test_another_schema_version(self) -> None:
        await self.filled()
        other = self.other()
        other.execute("PRAGMA user_version=99")
        other.close()
        self.assertIn(f"has schema version 99, and this zpipeline writes version {VERSION}: use", self.refused())

    def test_another_programs_sqlite_file(self) -> None:
        for version in (0, VERSION, 99):
            for mode in ("delete", "wal"):
                self.path = self.folder / f"photos-{version}-{mode}"
                other = sqlite3.connect(self.path)
                other.execute(f"PRAGMA journal_mode={mode}")
                other.execute(f"PRAGMA user_version={version}")
                other.execute("CREATE TABLE meta (name, value)")
                other.commit()
                other.close()
                self.assertIn("another program's SQLite file", self.refused())

    def test_another_programs_sqlite_file_without_tables(self) -> None:
        other = self.other()
        other.execute("PRAGMA application_id=77")
        other.close()
        self.assertIn("another program's SQLite file", self.refused())

    def test_a_text_file(self) -> None:
        for text in ("some notes\n", "some notes\n" * 30, "some notes\n" * 10_000):
            self.path.write_text(text)
            self.assertIn("no SQLite file", self.refused())

    async def test_a_truncated_file(self) -> None:
        await self.filled()
        whole = self.path.read_bytes()
        for size in (50, 4096, len(whole) // 2 + 7):
            self.path.write_bytes(whole[:size])
            self.assertRegex(self.refused(), "it is damaged.*: restore it from a backup, or name another")

    async def test_a_corrupt_file(self) -> None:
        await self.filled()
        whole = self.path.read_bytes()
        for start, stop in ((0, 16), (100, 4096), (4096, 8192)):
            self.path.write_bytes(whole[:start] + b"\xa5" * (stop - start) + whole[stop:])
            self.assertIn("it is damaged", self.refused())

    def test_no_such_folder(self) -> None:
        said = self.refused(self.folder / "nowhere" / "jobs")
        self.assertIn("No such file or directory", said)
        self.assertIn("see to its folder", said)

    def test_a_folder(self) -> None:
        folder = self.folder / "jobs"
        folder.mkdir()
        self.assertIn("it cannot be written", self.refused(folder))

    def test_no_file_at_all(self) -> None:
        self.path = self.folder / ":memory:"
        cwd = os.getcwd()
        self.addCleanup(os.chdir, cwd)
        os.chdir(self.folder)
        journal = Journal(reactor, ":memory:", self.times, synchronous="full", limits=LIMITS)
        self.assertIn("name a file", str(self.assertRaises(UsageError, journal.open, Owner())))

    @contextmanager
    def unprivileged(self) -> Iterator[Path]:
        """As somebody whom permissions bind: a folder that anybody may write to."""
        folder = Path(tempfile.mkdtemp()).resolve()
        self.addCleanup(rmtree, folder)
        folder.chmod(0o777)
        user = os.geteuid()
        if user == 0:
            try:
                os.chown(folder, 65534, 65534)
                os.seteuid(65534)
            except OSError as error:
                raise SkipTest(f"permissions do not bind root, who may not become another here: {error}") from None
        try:
            yield folder
        finally:
            os.seteuid(user)

    def made_in(self, folder: Path) -> Path:
        """A journal, closed."""
        path = folder / "jobs"
        connection, _ = open_journal(str(path))
        connection.close()
        return path

    def test_a_file_that_may_only_be_read(self) -> None:
        with self.unprivileged() as folder:
            path = self.made_in(folder)
            path.chmod(0o444)
            said = self.refused(path)
        self.assertIn("it cannot be written (attempt to write a readonly database): see to the permissions", said)

    def test_a_folder_that_may_only_be_read(self) -> None:
        with self.unprivileged() as folder:
            path = self.made_in(folder)
            folder.chmod(0o555)
            said = self.refused(path)
            folder.chmod(0o777)
        self.assertIn("Permission denied", said)
        self.assertIn("permissions", said)

    async def test_another_program_in_a_transaction(self) -> None:
        await self.filled()
        other = self.other()
        other.execute("BEGIN IMMEDIATE")
        self.assertIn("another program holds it", self.refused())
        other.execute("ROLLBACK")
        await self.opened().close()

    async def test_a_refused_opening_leaves_no_lock(self) -> None:
        self.path.write_text("some notes")
        self.refused()
        self.path.unlink()
        await self.put(self.opened(), job(1))

    # One process at a time

    def test_another_process_has_it_until_it_is_killed(self) -> None:
        process = self.process("hold")
        said = f"is in use by process {process.pid}: stop that one, or name another with --journal"
        self.assertIn(said, self.refused())
        self.assertIn(said, self.refused())
        end(process)
        self.opened()

    def test_another_name_of_the_file_is_no_way_around(self) -> None:
        process = self.process("hold")
        link = self.folder / "link"
        link.symlink_to(self.path)
        self.assertIn(f"in use by process {process.pid}", self.refused(link))

    async def test_this_process_has_it_until_it_is_closed(self) -> None:
        journal = self.opened()
        self.assertIn(f"in use by process {os.getpid()}", self.refused())
        await journal.close()
        await self.put(self.opened(), job(1))


@frozen
class Call:
    """A system call: its name, what it was given, and the lines of the trace where it began and where it ended."""

    name: str
    given: str
    begun: int
    ended: int


def calls(trace: str) -> list[Call]:
    """The calls of a trace by ``strace -f``, in the order in which they began."""
    found = []
    unfinished: dict[str, Call] = {}
    for number, line in enumerate(trace.splitlines()):
        process, _, rest = line.partition(" ")
        rest = rest.strip()
        resumed = rest.startswith("<... ")
        if resumed and process in unfinished:
            call = unfinished.pop(process)
            # what has been read is told only now
            found.append(evolve(call, given=call.given + rest, ended=number))
        elif not resumed and "(" in rest:
            name, _, given = rest.partition("(")
            call = Call(name, given, number, number)
            if given.endswith("<unfinished ...>"):
                unfinished[process] = call
            else:
                found.append(call)
    return sorted(found, key=lambda call: call.begun)


class OutsideTests(SynchronousTestCase):
    """What a web side does, in which order, as the system sees it: under strace."""

    traced = "trace=fdatasync,fsync,sendto,write,writev,sendmsg,pwrite64,recvfrom"

    def trace(self, synchronous: str) -> list[Call]:
        """The calls of a web side, from the moment when it has read the one job that it gets, and hands to a worker."""
        if which("strace") is None:
            raise SkipTest("strace is not installed")
        may = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
        if may.returncode:
            raise SkipTest(f"strace may not trace here: {may.stderr}")
        with Rig() as rig:
            worker = rig.worker()
            port = free_port()
            path = rig.folder / "trace"
            # -D: the process that is started is the traced one
            strace = ["strace", "-D", "-f", "-y", "-s", "8192", "-o", path, "-e", self.traced]
            web = rig.start(
                "web",
                [
                    *(*strace, *TWISTD, "zpipe-web", f"--listen=tcp:{port}:interface=127.0.0.1"),
                    *("--journal=jobs", f"--journal-sync={synchronous}", f"--worker=tcp://127.0.0.1:{worker.port}"),
                ],
                port,
            )
            rig.until_ready(web, 1)
            self.assertEqual(post(port, b"the-very-job")[0], 202)
            rig.until("the job has run", lambda: rig.record(worker.port).ended)
            self.assertEqual(web.end(), 0)
            rig.until("the trace is whole", lambda: f"{web.popen.pid} +++ exited" in _spaced(path.read_text()))
            found = calls(path.read_text())
        begin = next(call.ended for call in found if "POST / HTTP" in call.given and call.name == "recvfrom")
        return [call for call in found if call.begun > begin]

    def first(self, found: list[Call], text: str, *names: str) -> Call:
        """The first call of one of these names with this text."""
        calls = [call for call in found if call.name in names and text in call.given]
        self.assertTrue(calls, f"none of {names} with {text!r}")
        return calls[0]

    def sendings(self, found: list[Call]) -> tuple[Call, Call]:
        """The answer to the client, and the job to its worker."""
        sending = ("sendto", "write", "writev", "sendmsg")
        return self.first(found, "HTTP/1.1 202", *sending), self.first(found, "the-very-job", *sending)

    def test_the_job_is_on_the_disk_before_it_is_answered_and_before_it_is_sent(self) -> None:
        found = self.trace("full")
        answer, sent = self.sendings(found)
        written = self.first(found, "the-very-job", "pwrite64")
        self.assertIn("jobs-wal>", written.given)
        synced = self.first([call for call in found if call.begun > written.ended], "jobs-wal>", "fdatasync", "fsync")
        self.assertLess(synced.ended, answer.begun)
        self.assertLess(synced.ended, sent.begun)

    def test_with_normal_it_is_written_before_and_the_disk_is_not_waited_for(self) -> None:
        found = self.trace("normal")
        answer, sent = self.sendings(found)
        written = self.first(found, "the-very-job", "pwrite64")
        self.assertLess(written.ended, answer.begun)
        self.assertLess(written.ended, sent.begun)
        synced = [call for call in found if call.name in ("fdatasync", "fsync") and call.begun < answer.begun]
        self.assertEqual(synced, [])


def _spaced(text: str) -> str:
    return " ".join(text.split())


class KilledTests(JournalCase):
    """Killed under load, again and again."""

    timeout = 300.0
    rounds = 20

    def test_what_was_said_to_be_accepted_is_there(self) -> None:
        seed = random.randrange(1 << 32)
        print(f"seed {seed} ", end="", flush=True)
        times = random.Random(seed)
        said: set[int] = set()
        slowest = 0.0
        for _ in range(self.rounds):
            process = self.process("push")
            assert process.stdout is not None
            killer = threading.Timer(times.uniform(0.005, 0.2), process.kill)
            killer.start()
            printed = process.stdout.read()
            killer.join()
            # the last line may be cut short
            said |= {int(number) for line in printed.split("\n")[:-1] for number in line.split()}
            begun = time.monotonic()
            connection, _ = open_journal(str(self.path))
            slowest = max(slowest, time.monotonic() - begun)
            there = connection.execute("SELECT sequence FROM jobs UNION ALL SELECT sequence FROM settled").fetchall()
            self.assertEqual(len(there), len(set(there)), f"seed {seed}")
            self.assertEqual(said - {number for (number,) in there}, set(), f"seed {seed}")
            check_books(self, connection)
            self.assertEqual(connection.execute("PRAGMA integrity_check").fetchone(), ("ok",))
            connection.close()
        self.assertGreater(len(said), self.rounds, "they were killed before they had done anything")
        self.assertLess(slowest, 2)


class ManyTests(JournalCase):
    """A journal with a million jobs."""

    jobs = 1_000_000

    async def test_opening_and_the_first_pages_are_quick(self) -> None:
        fill(self.path, self.jobs, f"iif(n % 2, NULL, {NOW} - n)")
        begun = time.monotonic()
        journal = self.journal()
        opened = journal.open(self.owner)
        self.addCleanup(journal.close)
        fresh, more = await journal.load(0, 1000, MANY)
        retrying, more_retrying = await journal.load_retries(FIRST, 1000, MANY)
        took = time.monotonic() - begun
        self.assertEqual((opened.pending, opened.pending_bytes), (self.jobs, self.jobs * 100))
        self.assertEqual((numbers(fresh), more), (list(range(1, 2001, 2)), True))
        self.assertEqual((numbers(retrying), more_retrying), (list(range(self.jobs, self.jobs - 2000, -2)), True))
        self.assertLess(took, 2)
