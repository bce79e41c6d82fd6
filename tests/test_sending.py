"""Jobs as messages."""

from __future__ import annotations

from twisted.trial import unittest

from zpipeline import protocol
from zpipeline.entry import Entry
from zpipeline.pipeline.sending import to_messages
from zpipeline.protocol import MAX_BYTES_IN_MESSAGE, MAX_JOBS_IN_MESSAGE


def entry(number: int, body: bytes = b"") -> Entry:
    return Entry(number, body, b"{}", 5.0)


class SendingTests(unittest.SynchronousTestCase):
    def sent(self, entries: list[Entry]) -> list[list[int]]:
        """The numbers in each message."""
        messages = [protocol.decode_for_worker(frames) for frames in to_messages(7, entries)]
        for message in messages:
            assert isinstance(message, protocol.Jobs) and message.session == 7
        return [list(message.sequences) for message in messages if isinstance(message, protocol.Jobs)]

    def test_a_message_says_all_of_a_job(self) -> None:
        job = Entry(3, b"body", b'{"a":"b"}', 12.5, attempt=4)
        (frames,) = to_messages(9, [job])
        self.assertEqual(frames, protocol.encode_jobs(9, [3], [4], [12.5], [b'{"a":"b"}'], [b"body"]))

    def test_a_message_tells_times_by_the_clocks_of_workers(self) -> None:
        (frames,) = to_messages(9, [entry(1), entry(2)], skew=-3.5)
        message = protocol.decode_for_worker(frames)
        assert isinstance(message, protocol.Jobs)
        self.assertEqual(list(message.accepted_at), [1.5, 1.5])

    def test_no_message_holds_more_jobs_than_one_may(self) -> None:
        numbers = list(range(1, 2 * MAX_JOBS_IN_MESSAGE + 2))
        sent = self.sent([entry(number) for number in numbers])
        self.assertEqual([len(batch) for batch in sent], [MAX_JOBS_IN_MESSAGE, MAX_JOBS_IN_MESSAGE, 1])
        self.assertEqual([number for batch in sent for number in batch], numbers)

    def test_as_many_jobs_as_one_may_hold_are_one_message(self) -> None:
        self.assertEqual(len(self.sent([entry(number) for number in range(MAX_JOBS_IN_MESSAGE)])), 1)

    def test_no_message_of_several_jobs_holds_more_bytes_than_one_may(self) -> None:
        half = bytes(MAX_BYTES_IN_MESSAGE // 2)
        self.assertEqual(self.sent([entry(1, half), entry(2, half), entry(3, b"x"), entry(4, half)]), [[1, 2], [3, 4]])

    def test_the_bytes_of_the_job_that_begins_a_message_count_in_it(self) -> None:
        most = bytes(MAX_BYTES_IN_MESSAGE)
        self.assertEqual(self.sent([entry(1, most), entry(2, most), entry(3, b"x")]), [[1], [2], [3]])

    def test_a_larger_job_has_a_message_of_its_own(self) -> None:
        large = bytes(MAX_BYTES_IN_MESSAGE + 1)
        self.assertEqual(self.sent([entry(1, large), entry(2, large)]), [[1], [2]])
        self.assertEqual(self.sent([entry(1, b"x"), entry(2, large), entry(3, b"x")]), [[1], [2], [3]])
