"""Job, its id and its headers."""

from __future__ import annotations

import json

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.trial import unittest

from zpipeline.errors import UsageError
from zpipeline.job import NO_HEADERS, Job, check_bodies, encode_headers, make_id, make_ids, parse_id

# how long generating takes is the machine's business
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

numbers = st.integers(0, 2**64 - 1)
text = st.text(st.characters(exclude_categories=["Cs"]))


class IdTests(unittest.TestCase):
    @unhurried
    @given(numbers, numbers)
    def test_an_id_is_read_back(self, ventilator: int, sequence: int) -> None:
        job_id = make_id(ventilator, sequence)
        self.assertRegex(job_id, "^[0-9a-f]{32}$")
        self.assertEqual(parse_id(job_id), (ventilator, sequence))

    @unhurried
    @given(numbers, numbers, numbers)
    def test_ids_of_one_ventilator_sort_by_acceptance(self, ventilator: int, one: int, other: int) -> None:
        self.assertEqual(one < other, make_id(ventilator, one) < make_id(ventilator, other))

    def test_what_is_no_id_is_none(self) -> None:
        for wrong in ("", "0" * 31, "0" * 33, "0" * 31 + "A", "0" * 31 + "g", "+" + "0" * 31, "0" * 31 + " ", "٣" * 32):
            self.assertIsNone(parse_id(wrong), wrong)

    @unhurried
    @given(st.text(max_size=40))
    def test_any_text_is_an_id_or_none(self, wrong: str) -> None:
        parsed = parse_id(wrong)
        if parsed is not None:
            self.assertEqual(make_id(*parsed), wrong)


class HeaderTests(unittest.TestCase):
    def test_no_headers_are_an_empty_object(self) -> None:
        for none in (None, {}, NO_HEADERS):
            self.assertEqual(encode_headers(none), b"{}")

    @unhurried
    @given(st.dictionaries(text, text))
    def test_headers_are_a_json_object_with_names_in_lower_case(self, headers: dict[str, str]) -> None:
        lowered = {name.lower(): value for name, value in headers.items()}
        if len(lowered) < len(headers):
            self.assertRaises(UsageError, encode_headers, headers)
        else:
            self.assertEqual(json.loads(encode_headers(headers)), lowered)

    def test_a_name_that_comes_twice_is_said(self) -> None:
        error = self.assertRaises(UsageError, encode_headers, {"X-A": "1", "x-a": "2"})
        self.assertEqual(str(error), "the header 'x-a' comes twice: join its values by ', '")

    def test_what_is_not_str_to_str_is_said(self) -> None:
        error = self.assertRaises(UsageError, encode_headers, {"a": 1})
        self.assertEqual(str(error), "headers are str to str, not str to int: 'a'")
        error = self.assertRaises(UsageError, encode_headers, {b"a": "1"})
        self.assertEqual(str(error), "headers are str to str, not bytes to str: b'a'")

    def test_text_that_utf8_cannot_hold_is_said(self) -> None:
        for headers in ({"a": "\ud800"}, {"\ud800": "a"}):
            error = self.assertRaises(UsageError, encode_headers, headers)
            self.assertIn("headers must be text that UTF-8 can hold", str(error))

    def test_many_ids_are_those_of_each(self) -> None:
        self.assertEqual(make_ids(7, (1, 1 << 63)), [make_id(7, 1), make_id(7, 1 << 63)])

    def test_a_body_is_bytes(self) -> None:
        check_bodies([b"a", b""])
        error = self.assertRaises(UsageError, check_bodies, [b"a", "a"])
        self.assertEqual(str(error), "a job's body is bytes, not str: encode it first")


class JobTests(unittest.TestCase):
    def test_what_was_not_given_has_defaults(self) -> None:
        job = Job((1, 2), b"body")
        self.assertEqual((job.frames, dict(job.headers), job.attempt, job.accepted_at), ((b"body",), {}, 1, 0.0))

    def test_what_was_given_is_there(self) -> None:
        job = Job((1, 2), b"b", frames=(b"a", b"b"), headers={"a": "b"}, attempt=3, accepted_at=1.5)
        self.assertEqual((job.frames, job.headers, job.attempt, job.accepted_at), ((b"a", b"b"), {"a": "b"}, 3, 1.5))

    def test_its_id_is_of_its_ventilator_and_number(self) -> None:
        self.assertEqual(Job((1, 255), b"").id, "000000000000000100000000000000ff")

    def test_the_body_is_read_as_json(self) -> None:
        self.assertEqual(Job((1, 2), '{"a": [1, "\xe9"]}'.encode()).json(), {"a": [1, "\xe9"]})
        self.assertRaises(json.JSONDecodeError, Job((1, 2), b"{").json)
        self.assertRaises(UnicodeDecodeError, Job((1, 2), b"\xff\xff").json)

    def test_its_repr_says_which_job_and_how_large_but_not_the_body(self) -> None:
        job = Job((1, 2), b"secret", attempt=3)
        self.assertEqual(repr(job), f"<Job {job.id} attempt 3, 6 bytes>")

    def test_headers_that_are_not_there_cannot_be_added(self) -> None:
        with self.assertRaises(TypeError):
            Job((1, 2), b"").headers["a"] = "b"  # type: ignore[index]
