"""What every store promises: the same tests for the one in memory and for the journal."""

from __future__ import annotations

from twisted.internet.defer import Deferred, gatherResults

from tests.journal_kit import (
    EVERYTHING,
    LIMITS,
    NOW,
    JournalCase,
    StoreCase,
    dead,
    done,
    job,
    jobs,
    letter,
    numbers,
    plain,
    tried,
)
from zpipeline.errors import KeyReused, KeysFull
from zpipeline.memory import Memory
from zpipeline.store import Facts, Key, Selection, Status, Store


def key(name: str = "a", fingerprint: bytes = b"print") -> Key:
    """An idempotency key."""
    return Key(name, fingerprint)


class Contract:
    """The tests, for a `StoreCase` whose store is made by `store`."""

    def store(self) -> Store:
        """An open one, empty."""
        raise NotImplementedError

    # What became of jobs

    async def test_a_job_that_was_done_is_known(self) -> None:
        store = self.store()
        entry = job(7, at=NOW - 5)
        await self.put(store, entry)
        entry.attempt = 3
        store.note(done(entry, at=NOW - 1))
        self.assertEqual(await store.status(7), Status("done", 3, NOW - 5, NOW - 1, None))

    async def test_a_job_that_is_dead_is_known_with_its_error(self) -> None:
        store = self.store()
        await self.put(store, job(7, at=NOW - 5))
        store.note(dead(job(7, at=NOW - 5), at=NOW - 1))
        self.assertEqual(await store.status(7), Status("dead", 5, NOW - 5, NOW - 1, "KeyError: 1"))

    async def test_a_job_that_never_was_is_not_known(self) -> None:
        store = self.store()
        await self.put(store, job(7))
        self.assertIsNone(await store.status(8))

    async def test_several_at_once_are_settled_each_in_its_way(self) -> None:
        store = self.store()
        entries = jobs(1, 2, 3)
        await self.put(store, *entries)
        facts = done(entries[0])
        facts.add(dead(entries[1]))
        facts.add(done(entries[2]))
        self.assertEqual(len(facts), 3)
        store.note(facts)
        found = [await store.status(number) for number in (1, 2, 3)]
        self.assertEqual([status and status.state for status in found], ["done", "dead", "done"])

    async def test_questions_find_what_was_noted_before_them(self) -> None:
        store = self.store()
        entry = job(1)
        await self.put(store, entry)
        store.note(dead(entry))
        letters, gone, status, nothing = await gatherResults(
            [store.letters(0, 10), store.drop(1), store.status(1), store.letters(0, 10)]
        )
        self.assertEqual((numbers(letters), gone, status.state, nothing), ([1], True, "dead", []))

    async def test_answers_come_in_the_order_of_asking(self) -> None:
        store = self.store()
        order: list[str] = []

        def ask(what: str, answer: Deferred[object]) -> Deferred[None]:
            return answer.addCallback(lambda _: order.append(what))

        await gatherResults(
            [
                ask("accept", store.accept(jobs(1), None)),
                ask("load", store.load(0, 10, 1000)),
                ask("refused", store.accept(jobs(2), key()).addCallback(lambda _: store.note(Facts()))),
                ask("status", store.status(1)),
                ask("accept with a key", store.accept(jobs(3), key("b"))),
                ask("letters", store.letters(0, 1)),
            ]
        )
        self.assertEqual(order, ["accept", "load", "refused", "status", "accept with a key", "letters"])

    # How long settled jobs are kept

    async def test_a_settled_job_is_known_for_as_long_as_it_is_kept(self) -> None:
        store = self.store()
        entry = job(1)
        await self.put(store, entry)
        store.note(done(entry))
        self.at(NOW + LIMITS.keep)
        self.assertIsNotNone(await store.status(1))
        self.at(NOW + LIMITS.keep + 0.5)
        self.assertIsNone(await store.status(1))

    async def test_of_too_many_settled_jobs_the_first_are_forgotten(self) -> None:
        store = self.store()
        entries = jobs(*range(1, 16))
        await self.put(store, *entries)
        for entry in entries:
            store.note(done(entry))
            await store.letters(0, 1)
        known = [entry.sequence for entry in entries if await store.status(entry.sequence)]
        self.assertEqual(known, list(range(6, 16)))

    async def test_of_too_many_that_settle_at_once_as_many_as_may_be_are_known(self) -> None:
        store = self.store()
        entries = jobs(*range(1, 501))
        await self.put(store, *entries)
        store.note(done(*entries))
        await store.letters(0, 1)
        known = [entry.sequence for entry in entries if await store.status(entry.sequence)]
        self.assertEqual(known, list(range(491, 501)))

    async def test_a_dead_letter_is_known_for_ever(self) -> None:
        store = self.store()
        entries = jobs(*range(1, 20))
        await self.put(store, *entries)
        store.note(dead(entries[0]))
        store.note(done(*entries[1:]))
        self.at(NOW + LIMITS.keep * 1000)
        await store.letters(0, 1)
        self.assertEqual(await store.status(1), Status("dead", 5, NOW, NOW, "KeyError: 1"))
        self.assertEqual(await store.letter(1), letter(entries[0]))

    # Results

    async def outcome(self, store: Store, number: int, at: float = NOW) -> tuple[str, bool, bytes | None]:
        """State of a job that is known, whether it has returned something, and what."""
        outcome = await store.outcome(number, at)
        assert outcome is not None
        return outcome.status.state, outcome.returned, outcome.result

    async def returned(self, store: Store, results: dict[int, bytes], at: float = NOW) -> None:
        """These jobs are accepted and done, and have returned this."""
        entries = jobs(*results)
        await self.put(store, *entries)
        store.note(done(*entries, at=at, results=results))

    async def test_a_result_is_kept_as_it_is(self) -> None:
        store = self.store()
        await self.returned(store, {1: b"b\x00\xff", 2: b"t"})
        self.assertEqual(await self.outcome(store, 1), ("done", True, b"b\x00\xff"))
        self.assertEqual(await self.outcome(store, 2), ("done", True, b"t"))

    async def test_a_job_that_has_returned_nothing_has_no_result(self) -> None:
        store = self.store()
        await self.put(store, *jobs(1))
        store.note(done(*jobs(1)))
        self.assertEqual(await self.outcome(store, 1), ("done", False, None))

    async def test_a_dead_job_has_no_result_whatever_is_said_later(self) -> None:
        store = self.store()
        await self.put(store, *jobs(1))
        store.note(dead(*jobs(1)))
        store.note(Facts(elsewhere=[(1, NOW)], results={1: b"bx"}))
        outcome = await store.outcome(1, NOW)
        self.assertEqual(outcome, (Status("dead", 5, NOW, NOW, "KeyError: 1"), False, None))

    async def test_an_unknown_job_has_no_outcome(self) -> None:
        self.assertIsNone(await self.store().outcome(1, NOW))

    async def test_a_result_is_kept_for_as_long_as_its_job(self) -> None:
        store = self.store()
        await self.returned(store, {1: b"bx"})
        self.assertEqual(await self.outcome(store, 1, NOW + LIMITS.keep), ("done", True, b"bx"))
        self.assertIsNone(await store.outcome(1, NOW + LIMITS.keep + 0.5))

    async def test_of_too_many_bytes_of_results_the_oldest_go_and_it_is_known_that_they_were_there(self) -> None:
        store = self.store()
        for number in (1, 2, 3):
            await self.returned(store, {number: b"b" + b"x" * 39})
            await store.letters(0, 1)
        self.assertEqual(await self.outcome(store, 1), ("done", True, None))
        self.assertEqual(await self.outcome(store, 2), ("done", True, b"b" + b"x" * 39))
        self.assertEqual(await self.outcome(store, 3), ("done", True, b"b" + b"x" * 39))

    async def test_results_go_with_the_jobs_when_those_are_too_many(self) -> None:
        store = self.store()
        await self.returned(store, dict.fromkeys(range(1, 10), b"b123456"))
        await self.returned(store, dict.fromkeys(range(10, 16), b"b123456"))
        await store.letters(0, 1)
        known = [number for number in range(1, 16) if await store.outcome(number, NOW)]
        self.assertEqual(known, list(range(6, 16)))
        results = [(await self.outcome(store, number))[2] for number in known]
        self.assertEqual(results, [b"b123456"] * 10, "room that was of those that are gone is free")

    async def test_the_latest_to_be_settled_are_kept_however_early_they_were_accepted(self) -> None:
        store = self.store()
        slow = jobs(1, 2)
        await self.put(store, *slow)
        for number in range(3, 13):
            await self.returned(store, {number: b"bx"}, NOW + number)
        store.note(done(slow[0], at=NOW + 20, results={1: b"bslow"}))
        await store.letters(0, 1)
        store.note(dead(slow[1], at=NOW + 21))
        for number in range(13, 16):
            await self.returned(store, {number: b"bx"}, NOW + 10 + number)
        await store.letters(0, 1)
        self.assertEqual(await self.outcome(store, 1, NOW + 30), ("done", True, b"bslow"))
        known = [number for number in range(1, 16) if await store.status(number)]
        self.assertEqual(known, [1, 2, *range(8, 16)])

    async def test_of_results_those_of_the_latest_to_be_settled_are_kept(self) -> None:
        store = self.store()
        slow = job(1)
        await self.put(store, slow)
        await self.returned(store, {2: b"b" + b"x" * 39}, NOW + 1)
        await self.returned(store, {3: b"b" + b"x" * 39}, NOW + 2)
        store.note(done(slow, at=NOW + 3, results={1: b"b" + b"y" * 39}))
        await store.letters(0, 1)
        kept = [(await self.outcome(store, number, NOW + 4))[2] is not None for number in (1, 2, 3)]
        self.assertEqual(kept, [True, False, True])

    async def test_one_that_is_settled_again_after_it_was_revived_is_one_of_the_latest(self) -> None:
        store = self.store()
        await self.put(store, job(1))
        store.note(dead(job(1), at=NOW))
        for number in range(2, 7):
            await self.returned(store, {number: b"bx"}, NOW + number)
        (revived,), _ = await store.revive(EVERYTHING, NOW + 7)
        store.note(done(revived, at=NOW + 8))
        for number in range(9, 14):
            await self.returned(store, {number: b"bx"}, NOW + number)
        await store.letters(0, 1)
        self.assertEqual((await store.status(1)).state, "done")

    async def test_what_was_revived_has_a_result_when_it_is_done(self) -> None:
        store = self.store()
        await self.put(store, *jobs(1))
        store.note(dead(*jobs(1)))
        (revived,), _ = await store.revive(EVERYTHING, NOW)
        store.note(done(revived, results={1: b"bx"}))
        self.assertEqual(await self.outcome(store, 1), ("done", True, b"bx"))

    # Dead letters

    async def test_dead_letters_are_counted(self) -> None:
        store = await self.some_dead()
        await store.letters(0, 1)
        self.assertEqual(store.dead, 6)
        await store.drop(3)
        await store.drop(3)
        await store.revive(Selection(handler="mail:send"), NOW)
        self.assertEqual(store.dead, 3)

    async def some_dead(self) -> Store:
        """A store with dead letters 1 to 6, in which 2 and 5 have another handler, and 3 and 5 another error."""
        store = self.store()
        entries = jobs(1, 2, 3, 4, 5, 6, 7)
        await self.put(store, *entries)
        for entry in entries[:6]:
            number = entry.sequence
            handler = "mail:send" if number in (2, 5) else "photos:resize"
            store.note(dead(entry, handler=handler, error="OSError: 100% _full_" if number in (3, 5) else "KeyError"))
        return store

    async def test_letters_are_told_in_order_and_in_pages(self) -> None:
        store = await self.some_dead()
        self.assertEqual(numbers(await store.letters(0, 4)), [1, 2, 3, 4])
        self.assertEqual(numbers(await store.letters(4, 4)), [5, 6])
        self.assertEqual(await store.letters(6, 4), [])

    async def test_letters_are_in_order_of_acceptance_whichever_died_first(self) -> None:
        store = self.store()
        entries = jobs(1, 2, 3)
        await self.put(store, *entries)
        for entry in reversed(entries):
            store.note(dead(entry))
        self.assertEqual(numbers(await store.letters(0, 10)), [1, 2, 3])
        revived, _ = await store.revive(EVERYTHING, NOW)
        self.assertEqual(numbers(revived), [1, 2, 3])

    async def test_a_letter_is_kept_whole(self) -> None:
        store = self.store()
        entry = job(1, bytes(range(256)) * 400)
        await self.put(store, entry)
        store.note(Facts(dead=[letter(entry, error="Ошибка 🦆")]))
        self.assertEqual(await store.letter(1), letter(entry, error="Ошибка 🦆"))
        self.assertEqual(await store.letters(0, 1), [letter(entry, error="Ошибка 🦆").summary])
        self.assertIsNone(await store.letter(2))

    async def test_one_can_be_dropped_once(self) -> None:
        store = await self.some_dead()
        self.assertTrue(await store.drop(3))
        self.assertFalse(await store.drop(3))
        self.assertFalse(await store.drop(7), "it is not dead")
        self.assertIsNone(await store.letter(3))
        self.assertEqual(numbers(await store.letters(0, 10)), [1, 2, 4, 5, 6])

    async def test_what_was_dropped_is_remembered_as_any_settled_job(self) -> None:
        store = await self.some_dead()
        await store.drop(3)
        status = await store.status(3)
        self.assertEqual(status and status.state, "dead")
        self.at(NOW + LIMITS.keep + 1)
        self.assertIsNone(await store.status(3))

    async def revived(self, selection: Selection) -> list[int]:
        """Which of `some_dead` become jobs again; and see that the others are there still."""
        store = await self.some_dead()
        entries, more = await store.revive(selection, NOW + 9)
        self.assertFalse(more)
        left = numbers(await store.letters(0, 10))
        self.assertEqual(sorted(numbers(entries) + left), [1, 2, 3, 4, 5, 6])
        return numbers(entries)

    async def test_all_can_be_revived(self) -> None:
        self.assertEqual(await self.revived(EVERYTHING), [1, 2, 3, 4, 5, 6])

    async def test_those_of_a_handler_can_be_revived(self) -> None:
        self.assertEqual(await self.revived(Selection(handler="mail:send")), [2, 5])

    async def test_part_of_the_name_of_a_handler_is_none(self) -> None:
        self.assertEqual(await self.revived(Selection(handler="mail")), [])

    async def test_those_with_a_text_in_their_error_can_be_revived(self) -> None:
        self.assertEqual(await self.revived(Selection(error="full")), [3, 5])

    async def test_what_is_a_pattern_elsewhere_is_text_in_a_selection(self) -> None:
        self.assertEqual(await self.revived(Selection(error="0% _f")), [3, 5])
        self.assertEqual(await self.revived(Selection(error="O%r")), [])
        self.assertEqual(await self.revived(Selection(error="oserror")), [])

    async def test_both_must_hold(self) -> None:
        self.assertEqual(await self.revived(Selection(handler="mail:send", error="full")), [5])

    async def test_a_range_can_be_revived(self) -> None:
        self.assertEqual(await self.revived(Selection(after=2, last=5)), [3, 4, 5])

    async def test_what_is_revived_begins_anew(self) -> None:
        store = self.store()
        entry = job(1, b"content", at=NOW - 50)
        await self.put(store, entry)
        store.note(dead(entry))
        (revived,), _ = await store.revive(EVERYTHING, NOW + 9)
        self.assertEqual(plain([revived]), [(1, b"content", entry.headers, NOW - 50, 1, 0, NOW + 9, None)])
        self.assertIsNone(await store.letter(1))

    async def test_what_is_revived_is_not_dead(self) -> None:
        store = self.store()
        await self.put(store, job(1))
        store.note(dead(job(1)))
        await store.revive(EVERYTHING, NOW + 9)
        status = await store.status(1)
        self.assertNotEqual(status and status.state, "dead")

    async def test_what_is_revived_can_be_done(self) -> None:
        store = self.store()
        await self.put(store, job(1))
        store.note(dead(job(1)))
        (revived,), _ = await store.revive(EVERYTHING, NOW + 9)
        store.note(done(revived, at=NOW + 10))
        self.assertEqual(await store.status(1), Status("done", 1, NOW, NOW + 10, None))

    async def test_what_is_revived_can_die_again(self) -> None:
        store = self.store()
        await self.put(store, job(1))
        store.note(dead(job(1)))
        (revived,), _ = await store.revive(EVERYTHING, NOW + 9)
        store.note(dead(revived, at=NOW + 10))
        self.assertEqual(await store.letter(1), letter(job(1), NOW + 10))

    # Idempotency keys

    async def test_a_new_key_is_taken(self) -> None:
        self.assertIsNone(await self.store().accept(jobs(1), key()))

    async def test_the_same_request_again_gives_the_first_job(self) -> None:
        store = self.store()
        await store.accept(jobs(1), key())
        self.assertEqual(await store.accept(jobs(2), key()), 1)
        self.assertEqual(await store.accept(jobs(3), key()), 1)

    async def test_the_same_request_again_while_the_first_is_written_gives_the_first_job(self) -> None:
        store = self.store()
        answers = await gatherResults([store.accept(jobs(number), key()) for number in (1, 2, 3)])
        self.assertEqual(answers, [None, 1, 1])

    async def test_another_request_under_the_key_is_refused(self) -> None:
        store = self.store()
        await store.accept(jobs(1), key())
        await self.assertFailure(store.accept(jobs(2), key(fingerprint=b"other")), KeyReused)
        self.assertEqual(await store.accept(jobs(3), key()), 1)

    async def test_another_request_while_the_first_is_written_is_refused(self) -> None:
        store = self.store()
        first = store.accept(jobs(1), key())
        second = self.assertFailure(store.accept(jobs(2), key(fingerprint=b"other")), KeyReused)
        self.assertIsNone(await first)
        await second

    async def test_too_many_keys_are_refused_and_none_is_forgotten(self) -> None:
        store = self.store()
        for number, name in enumerate("abc", 1):
            await store.accept(jobs(number), key(name))
        await self.assertFailure(store.accept(jobs(4), key("d")), KeysFull)
        self.assertEqual([await store.accept(jobs(5), key(name)) for name in "abc"], [1, 2, 3])

    async def test_without_a_key_jobs_are_accepted_when_there_are_too_many_keys(self) -> None:
        store = self.store()
        for number, name in enumerate("abc", 1):
            await store.accept(jobs(number), key(name))
        await self.put(store, *jobs(4, 5))

    async def keyed(self, name: str = "a") -> Store:
        """A store with job 1 under a key."""
        store = self.store()
        await store.accept(jobs(1), key(name))
        return store

    async def test_a_key_is_kept_while_its_job_is_unsettled(self) -> None:
        store = await self.keyed()
        store.note(tried(job(1), NOW + 5))
        self.at(NOW + LIMITS.keep * 1000)
        self.assertEqual(await store.accept(jobs(2), key()), 1)

    async def test_a_key_is_kept_for_a_time_after_its_job_was_done(self) -> None:
        store = await self.keyed()
        store.note(done(*jobs(1), at=NOW + 50))
        self.at(NOW + 50 + LIMITS.keep)
        self.assertEqual(await store.accept(jobs(2), key()), 1)
        self.at(NOW + 50.5 + LIMITS.keep)
        self.assertIsNone(await store.accept(jobs(3), key()))
        self.assertEqual(await store.accept(jobs(4), key()), 3)

    async def test_an_expired_key_may_be_used_for_another_request(self) -> None:
        store = await self.keyed()
        store.note(done(*jobs(1)))
        self.at(NOW + 1 + LIMITS.keep)
        self.assertIsNone(await store.accept(jobs(3), key(fingerprint=b"other")))
        await self.assertFailure(store.accept(jobs(4), key()), KeyReused)

    async def test_a_key_is_kept_for_a_time_after_its_job_died(self) -> None:
        store = await self.keyed()
        store.note(dead(*jobs(1)))
        self.at(NOW + LIMITS.keep)
        self.assertEqual(await store.accept(jobs(2), key()), 1)
        self.at(NOW + LIMITS.keep + 1)
        self.assertIsNone(await store.accept(jobs(3), key()))

    async def test_a_key_outlives_its_settled_job_when_there_are_too_many_of_those(self) -> None:
        store = await self.keyed()
        entries = jobs(1, *range(2, 40))
        await self.put(store, *entries[1:])
        store.note(done(*entries))
        await store.letters(0, 1)
        self.assertIsNone(await store.status(1))
        self.assertEqual(await store.accept(jobs(50), key()), 1)

    async def test_a_key_is_kept_while_its_job_is_revived(self) -> None:
        for name in ("a", ""):
            store = await self.keyed(name)
            store.note(dead(*jobs(1)))
            (revived,), _ = await store.revive(EVERYTHING, NOW)
            self.at(NOW + LIMITS.keep * 3)
            self.assertEqual(await store.accept(jobs(2), key(name)), 1)
            store.note(done(revived, at=NOW + LIMITS.keep * 3))
            self.at(NOW + LIMITS.keep * 4)
            self.assertEqual(await store.accept(jobs(3), key(name)), 1)
            self.at(NOW + LIMITS.keep * 4 + 1)
            self.assertIsNone(await store.accept(jobs(4), key(name)))
            self.at(NOW)

    async def test_reviving_a_job_without_a_key_touches_no_key(self) -> None:
        store = await self.keyed("")
        await self.put(store, job(2))
        facts = done(*jobs(1))
        facts.add(dead(*jobs(2)))
        store.note(facts)
        await store.revive(EVERYTHING, NOW)
        self.at(NOW + LIMITS.keep + 1)
        self.assertIsNone(await store.accept(jobs(3), key("")))

    async def test_expired_keys_make_room(self) -> None:
        store = self.store()
        for number, name in enumerate("abc", 1):
            await store.accept(jobs(number), key(name))
        store.note(done(*jobs(2)))
        self.at(NOW + LIMITS.keep)
        await self.assertFailure(store.accept(jobs(4), key("d")), KeysFull)
        self.at(NOW + LIMITS.keep + 1)
        self.assertIsNone(await store.accept(jobs(5), key("d")))
        await self.assertFailure(store.accept(jobs(6), key("e")), KeysFull)
        self.assertEqual([await store.accept(jobs(7), key(name)) for name in "acd"], [1, 3, 5])

    # The end

    async def test_a_store_without_trouble_leaves_nothing_unwritten(self) -> None:
        store = self.store()
        await self.put(store, *jobs(1, 2))
        store.note(done(*jobs(1)))
        self.assertIsNone(store.trouble)
        self.assertFalse(store.congested)
        self.assertEqual(await store.close(), 0)


class MemoryTests(Contract, StoreCase):
    def store(self) -> Store:
        store = Memory(self.limits, self.times)
        opened = store.open(self.owner)
        self.assertEqual((opened.pending, opened.pending_bytes), (0, 0))
        self.assertLess(opened.ventilator, 1 << 64)
        return store

    def test_two_have_different_numbers(self) -> None:
        self.assertNotEqual(*(Memory(LIMITS, self.times).open(self.owner).ventilator for _ in range(2)))


class JournalTests(Contract, JournalCase):
    def store(self) -> Store:
        self.path = self.path.with_name(self.path.name + "x")
        return self.opened()
