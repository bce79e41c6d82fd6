"""What handlers raise and return, as the protocol carries it: whatever it is, something is said of it."""

from __future__ import annotations

import sys
from typing import Any

from tests.oddities import Busy, EndsAll, HasNoClass, Later, Members, NoPhoto, SaysNothing, Text, nested
from tests.zmq_kit import LogTestCase
from zpipeline import Reject, RetryLater, protocol
from zpipeline.errors import UsageError
from zpipeline.job import Job
from zpipeline.outcomes import caught, to_failed, to_result
from zpipeline.protocol import (
    MAX_REASON,
    MAX_TRACEBACK,
    NO_DELAY,
    REJECT,
    RETRY,
    Done,
    Dropped,
    Failed,
    Json,
    decode_for_sink,
    encode,
)
from zpipeline.runner import Delivery


def failed(error: BaseException) -> Failed:
    """What the sink reads when a handler has raised this."""
    job = Job((1, 2), b"", delivery=Delivery(None, 7, 0.0))  # type: ignore[arg-type]
    try:
        raise error
    except BaseException:
        failure = caught()
    read = decode_for_sink(encode(to_failed(job, failure)))
    assert isinstance(read, Failed)
    return read


def result(value: Any) -> protocol.Result:
    """What the sink reads when a handler has returned this."""
    read = decode_for_sink(encode(Done(7, [2], [to_result(value, "the job")])))
    assert isinstance(read, Done)
    return read.results[0]


class FailedTests(LogTestCase):
    def test_what_cannot_say_what_it_is_has_failed_all_the_same(self) -> None:
        for error in (SaysNothing(), EndsAll(), HasNoClass(), SystemExit(), GeneratorExit(), MemoryError()):
            read = failed(error)
            self.assertEqual((read.session, read.sequence, read.kind, read.delay), (7, 2, RETRY, NO_DELAY))
            self.assertTrue(read.reason, type(error))

    def test_a_delay_that_is_none_is_left_to_the_backoff(self) -> None:
        errors = [Busy("db1"), *map(Later, (-3, float("nan"), float("inf"), 10**400, "soon", None, object()))]
        for error in errors:
            read = failed(error)
            self.assertEqual((read.kind, read.delay), (RETRY, NO_DELAY))
            self.assertIn(f"{type(error).__name__}: ", read.reason)
            self.assertIn("without a number of seconds, 0 or more, the delay is the backoff's", read.reason)
        self.assertEqual([failed(Later(seconds)).delay for seconds in (0, 2, 0.5, True)], [0.0, 2.0, 0.5, 1.0])

    def test_who_asks_for_no_number_of_seconds_is_told_so(self) -> None:
        for seconds in (-1, 10**400, float("nan"), float("inf"), "1", None):
            self.assertRaises(UsageError, RetryLater, seconds)

    def test_a_rejection_of_a_class_of_its_own_is_one(self) -> None:
        read = failed(NoPhoto(5))
        self.assertEqual((read.kind, read.reason), (REJECT, "5"))

    def test_what_it_says_has_a_bound(self) -> None:
        self.patch(protocol, "MAX_TRACEBACK", MAX_TRACEBACK // 2)  # trial takes no longer lines of its own processes
        said = "begins " + "x" * 2_000_000 + " ends"
        for error in (ValueError(said), Reject(said), RetryLater(1.0, said)):
            read = failed(error)
            self.assertLessEqual(len(read.reason.encode()), MAX_REASON)
            self.assertLessEqual(len(read.traceback.encode()), MAX_TRACEBACK // 2)
            self.assertIn("begins", read.reason)
            self.assertTrue(read.reason.endswith("ends"))
            self.assertIn("bytes are left out here", read.traceback)

    def test_its_traceback_is_logged_unless_it_says_what_is_to_follow(self) -> None:
        for error, is_logged in ((ValueError("no"), True), (Reject("no"), False), (RetryLater(1.0, "no"), False)):
            self.logged.clear()
            failed(error)
            [text] = self.lines("zpipeline.outcomes")
            self.assertEqual("Traceback (most recent call last)" in text, is_logged, text)


class Bytes(bytes):
    """It is put together otherwise than bytes are."""

    def __radd__(self, other: bytes) -> bytes:
        raise OSError

    def __len__(self) -> int:
        raise OSError


class ResultTests(LogTestCase):
    def test_what_is_bytes_or_text_of_a_class_of_its_own_is_bytes_or_text(self) -> None:
        self.assertEqual([result(Text("t\xebxt")), result(Bytes(b"\0bytes"))], ["t\xebxt", b"\0bytes"])

    def test_what_cannot_be_written_is_dropped_and_says_why(self) -> None:
        for value, reason in (
            (Members(OSError("no")), "the result of the job could not be written: OSError"),
            (Members(SystemExit(3)), "the result of the job could not be written: SystemExit"),
            (Members(KeyError("a")), "the result of the job could not be written: KeyError"),
            (Members(TypeError("x" * 10_000)), "it is not bytes, text or JSON: xxx"),
            (HasNoClass(), "the result of the job could not be written: RuntimeError"),
            (nested(100_000), "it is not bytes, text or JSON, but nested too deeply"),
            (10**5000, "it is not bytes, text or JSON: Exceeds the limit"),
            (object(), "it is not bytes, text or JSON: Object of type object"),
            (float("nan"), "it is not bytes, text or JSON: "),
        ):
            read = result(value)
            assert isinstance(read, Dropped), value
            self.assertIn(reason, read.reason)
            self.assertLessEqual(len(read.reason), MAX_REASON)

    def test_what_the_sink_cannot_read_is_dropped_there(self) -> None:
        limits = sys.getrecursionlimit(), sys.get_int_max_str_digits()
        self.addCleanup(sys.setrecursionlimit, limits[0])
        self.addCleanup(sys.set_int_max_str_digits, limits[1])
        sys.setrecursionlimit(20_000)
        sys.set_int_max_str_digits(0)
        written = [to_result(value, "the job") for value in (nested(5000), 10**5000, "x")]
        self.assertEqual([type(each) for each in written], [Json, Json, str])
        frames = encode(Done(7, [1, 2, 3], written))
        sys.setrecursionlimit(limits[0])
        sys.set_int_max_str_digits(limits[1])
        read = decode_for_sink(frames)
        assert isinstance(read, Done)
        self.assertEqual([type(each) for each in read.results], [Dropped, Dropped, str])
