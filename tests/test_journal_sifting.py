"""What cannot be written, whatever the disk does, fails alone."""

from __future__ import annotations

from twisted.internet.defer import gatherResults

from tests.journal_kit import NOW, JournalCase, dead, done, job, jobs, tried, until
from tests.test_journal import BooksCase
from zpipeline.errors import JournalError
from zpipeline.journal import writer
from zpipeline.journal.sifting import sift
from zpipeline.store import Facts, Key

#: SQLite's integers have 63 bits.
TOO_LARGE = 1 << 63


class SiftTests(JournalCase):
    """`sift` by itself."""

    def sifted(self, bad: set[int], facts: Facts) -> tuple[list[int], list[int], int]:
        """Numbers of the jobs of good facts and of bad ones, and how many attempts it took."""
        attempts = 0

        def attempt(some: Facts) -> Exception | None:
            nonlocal attempts
            attempts += 1
            self.assertLess(attempts, 1000)  # or it might go on for ever
            return ValueError("no") if bad & set(some.sequences()) else None

        good, aside = sift(facts, attempt)
        return good.sequences(), [each.sequence for each in aside], attempts

    def facts(self) -> Facts:
        """Of all kinds, 1 to 100."""
        facts = done(*jobs(*range(1, 61)), results={7: b"b", 70: b"b"})
        facts.add(Facts(elsewhere=[(number, NOW) for number in range(61, 81)]))
        for number in range(81, 91):
            facts.add(tried(job(number), NOW))
        facts.add(dead(*jobs(*range(91, 101))))
        return facts

    def test_without_any_that_are_bad_one_attempt_is_made(self) -> None:
        good, bad, attempts = self.sifted(set(), self.facts())
        self.assertEqual((sorted(good), bad, attempts), (list(range(1, 101)), [], 1))

    def test_the_bad_ones_are_found_in_few_attempts(self) -> None:
        for wrong in ({1}, {100}, {75}, {85}, {3, 62, 95}):
            good, bad, attempts = self.sifted(wrong, self.facts())
            self.assertEqual(set(bad), wrong)
            self.assertEqual(sorted(good), sorted(set(range(1, 101)) - wrong))
            self.assertLess(attempts, 16 * len(wrong))

    def test_results_stay_with_their_jobs(self) -> None:
        facts = self.facts()
        good, _ = sift(facts, lambda some: ValueError() if 7 in some.sequences() else None)
        self.assertEqual(good.results, {70: b"b"})

    def test_none_need_no_attempt(self) -> None:
        self.assertEqual(self.sifted({1}, Facts()), ([], [], 0))


class SetAsideTests(BooksCase):
    """Facts in a journal."""

    def setUp(self) -> None:
        super().setUp()
        self.said: list[str] = []
        self.patch(writer, "log", _Errors(self.said))

    async def test_a_number_that_no_job_has_wedges_nothing(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2, 3))
        facts = done(*jobs(1))
        facts.add(Facts(elsewhere=[(TOO_LARGE, NOW), (2, NOW)]))
        journal.note(facts)
        self.assertIsNone(await journal.accept(jobs(4), None))
        await until(lambda: self.said, "it is said")
        self.assertEqual(self.rows("SELECT sequence FROM settled"), [(1,), (2,)])
        self.assertEqual(len(self.said), 1)
        self.assertIn(f"what became of job number {TOO_LARGE} cannot be written, and is set aside", self.said[0])
        self.assertEqual(journal._commits.set_aside, 1)
        self.assertIsNone(journal.trouble)
        self.check_books()

    async def test_neither_does_any_other_fact_that_sqlite_cannot_take(self) -> None:
        journal = self.opened()
        await self.put(journal, *jobs(1, 2, 3, 4))
        for wrong in (
            tried(job(TOO_LARGE), NOW),
            tried(job(1), NOW, error="half a pair: \ud800"),
            dead(job(2), error="half a pair: \ud800"),
            done(job(3), results={3: object()}),  # type: ignore[dict-item]
            dead(job(4, at=None)),  # type: ignore[arg-type]
        ):
            journal.note(wrong)
        journal.note(tried(job(4), NOW + 5))
        await self.put(journal, job(5))
        self.assertEqual(journal._commits.set_aside, 5)
        self.assertEqual(self.rows("SELECT sequence, due FROM jobs WHERE due IS NOT NULL"), [(4, NOW + 5)])
        self.assertEqual(self.rows("SELECT count(*) FROM jobs"), [(5,)])
        self.assertIsNone(journal.trouble)
        self.check_books()

    async def test_a_request_that_cannot_be_carried_out_is_refused_alone(self) -> None:
        journal = self.opened()
        first = journal.accept(jobs(1), None)
        wrong = self.assertFailure(journal.accept(jobs(2), Key("half a pair: \ud800", b"")), JournalError)
        larger = self.assertFailure(journal.accept(jobs(TOO_LARGE), None), JournalError)
        last = journal.accept(jobs(3), Key("a", b""))
        await gatherResults([first, wrong, larger, last])
        self.assertEqual(self.rows("SELECT sequence FROM jobs"), [(1,), (3,)])
        self.assertEqual(self.rows("SELECT name FROM keys"), [("a",)])
        self.assertIsNone(journal.trouble)
        self.assertEqual(len(self.said), 2)
        self.check_books()


class _Errors:
    """A logger that writes down its errors."""

    def __init__(self, said: list[str]) -> None:
        self._said = said

    def error(self, text: str, **fields: object) -> None:
        self._said.append(text.format(**fields))

    def failure(self, text: str, failure: object, **fields: object) -> None:
        self._said.append(text.format(**fields))
