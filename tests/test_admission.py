"""How many jobs may be unsettled."""

from twisted.trial import unittest

from zpipeline.admission import Admission
from zpipeline.errors import Full


class AdmissionTests(unittest.SynchronousTestCase):
    def setUp(self) -> None:
        self.admission = Admission(3, 100)

    def counts(self) -> tuple[int, int]:
        return self.admission.jobs, self.admission.bytes

    def test_so_many_jobs_and_bytes_fit_as_the_bounds_say(self) -> None:
        self.admission.admit(3, 100)
        self.assertEqual(self.counts(), (3, 100))

    def test_one_job_too_many_says_how_many_there_may_be(self) -> None:
        self.admission.admit(2, 0)
        error = self.assertRaises(Full, self.admission.admit, 2, 0)
        self.assertEqual(str(error), "2 jobs are unsettled, and 3 may be: try again later")
        self.assertEqual(error.retry_after, 1)

    def test_one_byte_too_many_says_how_many_there_may_be(self) -> None:
        self.admission.admit(1, 60)
        error = self.assertRaises(Full, self.admission.admit, 1, 41)
        self.assertEqual(str(error), "unsettled jobs hold 60 bytes, and may hold 100: try again later")

    def test_all_of_them_are_taken_or_none(self) -> None:
        self.admission.admit(1, 10)
        self.assertRaises(Full, self.admission.admit, 3, 1)
        self.assertRaises(Full, self.admission.admit, 1, 91)
        self.assertEqual(self.counts(), (1, 10))

    def test_it_is_full_when_one_more_job_would_be_too_many(self) -> None:
        self.admission.admit(2, 0)
        self.assertFalse(self.admission.full)
        self.admission.admit(1, 0)
        self.assertTrue(self.admission.full)

    def test_it_is_full_when_one_more_byte_would_be_too_many(self) -> None:
        self.admission.admit(1, 99)
        self.assertFalse(self.admission.full)
        self.admission.admit(1, 1)
        self.assertTrue(self.admission.full)

    def test_bytes_may_be_without_bound(self) -> None:
        self.admission = Admission(3, None)
        self.admission.admit(2, 1 << 60)
        self.assertFalse(self.admission.full)
        self.assertEqual(self.counts(), (2, 1 << 60))

    def test_what_is_there_already_counts_whatever_the_bound(self) -> None:
        self.admission.add(5, 500)
        self.assertEqual(self.counts(), (5, 500))
        self.assertTrue(self.admission.full)
        self.assertRaises(Full, self.admission.admit, 1, 0)

    def test_there_is_room_again_once_a_job_is_settled(self) -> None:
        self.admission.admit(3, 100)
        self.admission.remove(1, 60)
        self.assertEqual(self.counts(), (2, 40))
        self.admission.admit(1, 60)
