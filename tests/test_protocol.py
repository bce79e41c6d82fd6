"""ZPP/1 on the wire: round trips, test vectors, and whatever else may arrive."""

import json
import struct
from itertools import zip_longest
from pathlib import Path
from typing import Any

from attrs import evolve
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from zpipeline import protocol
from zpipeline.errors import ProtocolError
from zpipeline.histogram import SECONDS, Histogram, Timings
from zpipeline.job import encode_headers
from zpipeline.protocol import (
    MAX_JOBS_IN_MESSAGE,
    MAX_REASON,
    MAX_TRACEBACK,
    NO_DELAY,
    REJECT,
    RETRY,
    Bye,
    Close,
    Done,
    Dropped,
    Failed,
    Hello,
    Jobs,
    Json,
    Ready,
    Returned,
    State,
    decode_for_sink,
    decode_for_worker,
    encode,
    encode_jobs,
    is_plain,
    pack_result,
    unpack_result,
)

# trial has no plugin that would load a profile, so each property names its settings.
thorough = settings(max_examples=120, deadline=None, database=None)

VECTORS = json.loads((Path(__file__).parent / "data" / "zpp1.json").read_text("utf-8"))
DECODERS = {"worker": decode_for_worker, "sink": decode_for_sink}

# Messages

u64 = st.integers(0, 2**64 - 1)
positive_u32 = st.integers(1, 2**32 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
hosts = st.one_of(st.sampled_from(["*", "[::]", "sink_1.example"]), st.ip_addresses(v=4).map(str))
sinks = st.builds("tcp://{}:{}".format, hosts | st.ip_addresses(v=6).map("[{}]".format), st.integers(1, 65535))
some_sequences = st.lists(u64, min_size=1, max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
results = st.one_of(st.none(), st.binary(max_size=20), text, st.builds(Json.of, json_values), st.builds(Dropped, text))
headers = st.dictionaries(text.map(str.lower), text, max_size=3)
job = st.tuples(u64, st.integers(1, 2**16 - 1), finite, headers, st.binary(max_size=50))


@st.composite
def done(draw: st.DrawFn) -> Done:
    sequences = draw(some_sequences)
    n = len(sequences)
    return Done(draw(u64), sequences, draw(st.just(()) | st.lists(results, min_size=n, max_size=n).map(tuple)))


@st.composite
def jobs_messages(draw: st.DrawFn) -> Jobs:
    columns = zip(*draw(st.lists(job, min_size=1, max_size=20)), strict=True)
    sequences, attempts, accepted_at, some_headers, bodies = columns
    return Jobs(draw(u64), sequences, attempts, accepted_at, list(some_headers), list(bodies))


histograms = st.builds(
    lambda counts, total: Histogram(counts=counts, sum=total),
    st.lists(u64, min_size=len(SECONDS) + 1, max_size=len(SECONDS) + 1),
    st.floats(0, allow_infinity=False),
)
timings = st.builds(Timings, histograms, histograms)
timeouts = st.none() | positive_u32 | st.floats(0, exclude_min=True, allow_infinity=False)
hellos = st.builds(Hello, u64, u64, u64, sinks, st.none() | positive_u32, timeouts)
for_worker = st.one_of(hellos, st.builds(Close, u64))
for_sink = st.one_of(
    st.builds(Ready, u64, u64, positive_u32, text, positive_u32, text, text),
    done(),
    st.builds(Failed, u64, u64, st.sampled_from([RETRY, REJECT]), st.just(NO_DELAY) | finite.map(abs), text, text),
    st.builds(Returned, u64, some_sequences),
    st.builds(State, u64, positive_u32, u64, u64, st.none() | timings, st.none() | u64),
    st.builds(Bye, u64),
)


def frames_of(message: Any) -> list[bytes]:
    if not isinstance(message, Jobs):
        return encode(message)
    blobs = [encode_headers(one) for one in message.headers]
    return encode_jobs(message.session, message.sequences, message.attempts, message.accepted_at, blobs, message.bodies)


class RoundTripTests(unittest.SynchronousTestCase):
    """What one side writes, the other reads."""

    @thorough
    @given(for_worker)
    def test_a_worker_reads_what_a_ventilator_writes(self, message: Any) -> None:
        self.assertEqual(decode_for_worker(encode(message)), message)

    @thorough
    @given(jobs_messages())
    def test_a_worker_reads_the_jobs_that_a_ventilator_writes(self, message: Jobs) -> None:
        self.assertEqual(decode_for_worker(frames_of(message)), message)

    @thorough
    @given(for_sink)
    def test_a_sink_reads_what_a_worker_writes(self, message: Any) -> None:
        self.assertEqual(decode_for_sink(encode(message)), message)

    @thorough
    @given(for_worker | jobs_messages() | for_sink)
    def test_no_message_is_taken_for_a_plain_job(self, message: Any) -> None:
        self.assertFalse(is_plain(frames_of(message)))

    def test_headers_that_repeat_are_written_once(self) -> None:
        columns = ([1, 2, 3], [1] * 3, [0.0] * 3)
        once, other = encode_headers({"x-once": "only"}), encode_headers({"x-other": "too"})
        frames = encode_jobs(5, *columns, [once, once, other], [b""] * 3)
        self.assertEqual(frames[1].count(b"only"), 1)
        message = decode_for_worker(frames)
        self.assertEqual(message.headers, [{"x-once": "only"}, {"x-once": "only"}, {"x-other": "too"}])

    def test_headers_cannot_be_changed_by_who_gets_them(self) -> None:
        message = decode_for_worker(encode_jobs(5, [1], [1], [0.0], [encode_headers({"a": "b"})], [b""]))
        with self.assertRaises(TypeError):
            message.headers[0]["a"] = "c"

    def test_a_message_holds_a_thousand_jobs_and_not_one_more(self) -> None:
        def frames(n: int) -> list[bytes]:
            return encode_jobs(5, range(n), [1] * n, [0.0] * n, [b"{}"] * n, [b"body"] * n)

        self.assertEqual(MAX_JOBS_IN_MESSAGE, 1000)
        self.assertEqual(list(decode_for_worker(frames(1000)).sequences), list(range(1000)))
        self.assertRaises(ProtocolError, decode_for_worker, frames(1001))

    def test_what_a_failure_says_has_a_bound_at_the_sink_too(self) -> None:
        said = "begins" + "\N{DUCK}" * 1_000_000 + "ends"
        read = decode_for_sink(encode(Failed(1, 2, RETRY, NO_DELAY, said, said)))
        for text, most in ((read.reason, MAX_REASON), (read.traceback, MAX_TRACEBACK)):
            self.assertTrue(most - 100 < len(text.encode()) <= most, len(text.encode()))
            self.assertTrue(text.startswith("begins") and text.endswith("ends"))
            self.assertRegex(text, r"\[\.\.\. 3,9\d\d,\d\d\d bytes are left out here \.\.\.\]")
        [result] = decode_for_sink(encode(Done(1, [2], [Dropped(said)]))).results
        self.assertLessEqual(len(result.reason.encode()), MAX_REASON)

    def test_text_that_utf8_cannot_hold_still_arrives_as_text(self) -> None:
        ready = Ready(1, 2, 1, "half \ud83d", 1, "h", "v")
        self.assertEqual(decode_for_sink(encode(ready)), evolve(ready, host="half ?"))
        failed = Failed(1, 2, RETRY, NO_DELAY, "half \ud83d", "\udfff")
        read = decode_for_sink(encode(failed))
        self.assertEqual(read, evolve(failed, reason="half \\ud83d", traceback="\\udfff"))
        self.assertEqual(decode_for_sink(encode(Done(1, [2], ["\ud83d"]))), Done(1, [2], ("\\ud83d",)))

    def test_what_is_no_result_is_not_written(self) -> None:
        self.assertRaises(TypeError, encode, Done(1, [2], [5]))

    def test_what_json_cannot_hold_is_no_result(self) -> None:
        for value, error in ((object(), TypeError), (float("nan"), ValueError)):
            self.assertRaises(error, Json.of, value)

    @thorough
    @given(results)
    def test_a_result_is_unpacked_as_it_was_packed(self, result: Any) -> None:
        self.assertEqual(unpack_result(pack_result(result)), result)

    @thorough
    @given(json_values)
    def test_a_value_comes_out_of_json_as_it_went_in(self, value: Any) -> None:
        self.assertEqual(Json.of(value).value, value)

    def test_encode_takes_messages_but_jobs(self) -> None:
        jobs = decode_for_worker(encode_jobs(5, [1], [1], [0.0], [b"{}"], [b""]))
        for message in (jobs, None, "HELLO"):
            self.assertRaises(TypeError, encode, message)


def u64_of(digits: str) -> int:
    assert len(digits) == 16
    return int(digits, 16)


def result_of(vector: Any) -> Any:
    if vector is None:
        return None
    [(kind, value)] = vector.items()
    return {
        "bytes": lambda: bytes.fromhex(value),
        "text": lambda: value,
        "json": lambda: Json.of(value),
        "dropped": lambda: Dropped(value),
    }[kind]()


def message_of(vector: dict[str, Any]) -> Any:
    """A vector's message as this project has it."""
    fields = dict(vector)
    kind = fields.pop("type")
    for name in {"ventilator", "generation", "session", "incarnation", "sequence", "received", "sent"} & fields.keys():
        fields[name] = u64_of(fields[name])
    if "sequences" in fields:
        fields["sequences"] = [u64_of(digits) for digits in fields["sequences"]]
    if "results" in fields:
        fields["results"] = tuple(map(result_of, fields["results"]))
    if "start" in fields:
        fields["timings"] = Timings(*[Histogram(**fields.pop(name)) for name in ("start", "run")])
    if "kind" in fields:
        fields["kind"] = {"retry": RETRY, "reject": REJECT}[fields["kind"]]
    if kind == "JOBS":
        jobs = fields["jobs"]
        return Jobs(
            fields["session"],
            tuple(u64_of(job["sequence"]) for job in jobs),
            tuple(job["attempt"] for job in jobs),
            tuple(job["accepted_at"] for job in jobs),
            [job["headers"] for job in jobs],
            [bytes.fromhex(job["body"]) for job in jobs],
        )
    return getattr(protocol, kind.capitalize())(**fields)


def frames_in(vector: dict[str, Any]) -> list[bytes]:
    return list(map(bytes.fromhex, vector["frames"]))


class VectorTests(unittest.SynchronousTestCase):
    """tests/data/zpp1.json, from which writers of other implementations test theirs."""

    def test_the_valid_ones_are_read(self) -> None:
        for vector in VECTORS["valid"]:
            self.assertEqual(DECODERS[vector["to"]](frames_in(vector)), message_of(vector["message"]), vector["name"])

    def test_the_valid_ones_are_written_to_the_byte(self) -> None:
        for vector in VECTORS["valid"]:
            same = frames_of(message_of(vector["message"])) == frames_in(vector)
            self.assertEqual(same, not vector.get("read_only", False), vector["name"])

    def test_there_is_one_of_every_type(self) -> None:
        types = {vector["message"]["type"] for vector in VECTORS["valid"]}
        self.assertEqual(types, {"HELLO", "JOBS", "CLOSE", "READY", "DONE", "FAILED", "RETURNED", "STATE", "BYE"})

    def test_the_invalid_ones_are_refused_with_a_reason(self) -> None:
        for vector in VECTORS["invalid"]:
            try:
                message = DECODERS[vector["to"]](frames_in(vector))
            except ProtocolError as error:
                self.assertGreater(len(str(error)), 10, vector["name"])
            else:
                self.fail(f"{vector['name']}: {vector['why']}, and yet it is read as {message}")

    def test_what_of_one_job_cannot_be_read_is_mended(self) -> None:
        for vector in VECTORS["mended"]:
            read, message = DECODERS[vector["to"]](frames_in(vector)), message_of(vector["message"])
            if isinstance(read, Done):
                self.assertEqual(message.results, (Dropped("*"),))
                [result] = read.results
                self.assertIsInstance(result, Dropped, vector["name"])
                read = evolve(read, results=message.results)
            self.assertEqual(read, message, vector["name"])

    def test_each_invalid_one_is_a_single_change_away_from_a_valid_one(self) -> None:
        valid = {vector["name"]: vector for vector in VECTORS["valid"]}
        for vector in VECTORS["invalid"] + VECTORS["mended"]:
            near = valid[vector["near"]]
            changes = [a != b for a, b in zip_longest(vector["frames"], near["frames"])] + [vector["to"] != near["to"]]
            self.assertEqual(sum(changes), 1, vector["name"])

    def test_plain_jobs_are_told_from_messages(self) -> None:
        for vector in VECTORS["plain"]:
            self.assertTrue(is_plain(frames_in(vector)), vector["name"])
        for vector in VECTORS["not_plain"] + VECTORS["valid"]:
            self.assertFalse(is_plain(frames_in(vector)), vector["name"])

    def test_what_is_not_plain_and_no_message_is_refused_by_both(self) -> None:
        for vector in VECTORS["not_plain"] + VECTORS["plain"]:
            for decode in DECODERS.values():
                self.assertRaises(ProtocolError, decode, frames_in(vector))


# What else may arrive

REAL = [frames_in(vector) for vector in VECTORS["valid"]]
HEADS = sorted({frames[0] for frames in REAL})
pieces = st.sampled_from([b"\0" * 8, b"\xff" * 8, b'{"', b"}", b"[", b'"', b"{}", b"t", b"j"])
frame = st.binary(max_size=80) | st.lists(pieces, max_size=9).map(b"".join)


def at_most_refuse(frames: list[bytes]) -> None:
    for decode in DECODERS.values():
        try:
            decode(frames)
        except ProtocolError as error:
            assert str(error)


@st.composite
def mutated(draw: st.DrawFn) -> list[bytes]:
    """Real frames, after a few accidents."""
    frames = list(draw(st.sampled_from(REAL)))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(frames) - 1))
        cut = draw(st.integers(0, len(frames[at])))
        other = draw(st.sampled_from(draw(st.sampled_from(REAL))))
        accident = draw(st.sampled_from(["flip", "cut", "behead", "insert", "drop", "double", "swap", "other"]))
        match accident:
            case "flip" if cut < len(frames[at]):
                flipped = frames[at][cut] ^ draw(st.integers(1, 255))
                frames[at] = frames[at][:cut] + bytes([flipped]) + frames[at][cut + 1 :]
            case "cut":
                frames[at] = frames[at][:cut]
            case "behead":
                frames[at] = frames[at][cut:]
            case "insert":
                frames[at] = frames[at][:cut] + draw(st.binary(max_size=9)) + frames[at][cut:]
            case "drop" if len(frames) > 1:  # ZeroMQ has no message without a frame
                del frames[at]
            case "double":
                frames.insert(at, frames[at])
            case "swap":
                frames[at], frames[-1] = frames[-1], frames[at]
            case "other":
                frames[at] = other
    return frames


class HostileTests(unittest.SynchronousTestCase):
    """Whatever arrives is read or refused, and nothing else happens."""

    @settings(thorough, max_examples=400)
    @given(st.lists(frame, min_size=1, max_size=5))
    def test_arbitrary_frames(self, frames: list[bytes]) -> None:
        at_most_refuse(frames)

    @settings(thorough, max_examples=400)
    @given(st.sampled_from(HEADS), st.lists(frame, max_size=4))
    def test_arbitrary_frames_under_a_real_head(self, head: bytes, frames: list[bytes]) -> None:
        at_most_refuse([head, *frames])

    @settings(thorough, max_examples=1000)
    @given(mutated())
    def test_real_messages_after_accidents(self, frames: list[bytes]) -> None:
        at_most_refuse(frames)

    @settings(thorough, max_examples=300)
    @given(st.sampled_from(REAL), st.data())
    def test_every_cut_of_a_real_message_loses_its_meaning(self, frames: list[bytes], data: st.DataObject) -> None:
        kept = data.draw(st.integers(0, sum(map(len, frames)) - 1))
        cut = []
        for one in frames:
            cut.append(one[:kept])
            kept -= len(cut[-1])
        for decode in DECODERS.values():
            try:
                message = decode(cut)
            except ProtocolError:
                continue
            self.assertNotEqual(frames_of(message), frames)

    @thorough
    @given(st.integers(2, 2**32 - 1), st.binary(max_size=2000))
    def test_a_count_that_the_columns_do_not_hold(self, n: int, rest: bytes) -> None:
        columns = struct.pack("!QI", 5, n) + rest[: n * 26 - 1]
        self.assertRaises(ProtocolError, decode_for_worker, [REAL_JOBS[0], columns, b""])

    @thorough
    @given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=2), st.binary(max_size=20))
    def test_lengths_that_the_bodies_or_headers_do_not_have(self, lengths: list[int], body: bytes) -> None:
        right = [len(body), 2]
        columns = struct.pack("!QIQHdII", 5, 1, 1, 1, 0.0, *lengths) + b"{}"
        if lengths == right:
            self.assertEqual(decode_for_worker([REAL_JOBS[0], columns, body]).bodies, [body])
        else:
            self.assertRaises(ProtocolError, decode_for_worker, [REAL_JOBS[0], columns, body])

    def test_nesting_without_end(self) -> None:
        for deep in (b"[" * 100_000, b'{"a":' * 100_000):
            self.assertRaises(ProtocolError, decode_for_worker, [*encode(Hello(1, 2, 3, "tcp://h:1"))[:2], deep])
            read = decode_for_sink([*encode(Done(1, [2, 3])), b"j" + deep, b"tx"])
            self.assertEqual([type(result) for result in read.results], [Dropped, str])

    def test_numbers_without_end(self) -> None:
        hello = encode(Hello(1, 2, 3, "tcp://h:1"))
        for digits in (b"9" * 100_000, b"1e999", b"-1", b"4294967296"):
            limits = b'{"sink":"tcp://h:1","window":' + digits + b"}"
            self.assertRaises(ProtocolError, decode_for_worker, [*hello[:2], limits])
        for digits in (b"9" * 100_000, b"1" + b"0" * 309, b"1e999", b"-1", b"1e-999"):
            limits = b'{"sink":"tcp://h:1","timeout":' + digits + b"}"
            self.assertRaises(ProtocolError, decode_for_worker, [*hello[:2], limits])

    def test_reasons_say_what_is_wrong(self) -> None:
        hello = encode(Hello(1, 2, 3, "tcp://h:1"))
        for frames, reason in (
            ([b"GET / HTTP/1.1"], "not a message of ZPP"),
            ([b""], "not a message of ZPP"),
            ([b"\xf0ZPP\x02H", *hello[1:]], "not version 1 of ZPP"),
            ([b"\xf0ZPP\x01X"], "type 'X' is nothing for a sink"),
            (hello, "type 'H' is nothing for a sink"),
            ([*encode(Bye(1)), b""], "a malformed message of type 'B'"),
            ([encode(Bye(1))[0], b"short"], "a malformed message of type 'B'"),
        ):
            error = self.assertRaises(ProtocolError, decode_for_sink, frames)
            self.assertIn(reason, str(error))

    def test_a_reason_is_short_whatever_it_quotes(self) -> None:
        for frames in (
            [b"\xf0ZPP" + b"x" * 10_000],
            [*encode(Ready(1, 2, 1, "h", 1, "h", "v"))[:2], json.dumps({"concurrency": "x" * 10_000}).encode()],
        ):
            error = self.assertRaises(ProtocolError, decode_for_sink, frames)
            self.assertLess(len(str(error)), 250)


REAL_JOBS = encode_jobs(5, [1], [1], [0.0], [b"{}"], [b"body"])
