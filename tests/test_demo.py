"""``zpipe demo``: its counting, and the experiment itself, with real processes."""

from __future__ import annotations

import io
import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from zpipeline import __version__, cli
from zpipeline.demo import client, experiment, processes
from zpipeline.demo.errors import DemoError
from zpipeline.demo.experiment import Plan, Result, run_experiment
from zpipeline.demo.fault import FROZEN, Fault, Schedule
from zpipeline.demo.handler import RECORD
from zpipeline.demo.processes import Processes
from zpipeline.demo.tally import Counter, Event, Record

PATIENCE = 30.0
NOT_WRITABLE = next(path for path in ("/proc", "/") if os.path.isdir(path))  # for nobody, root included
PROCESSES = Path("/proc")


def zpipe(*arguments: str) -> tuple[int, str, str]:
    """The command, in this process: its exit status, and what it wrote to stdout and stderr."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = cli.main(arguments)
        except SystemExit as exit:
            status = exit.code
    return status, out.getvalue(), err.getvalue()


def wait_until(happened: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {PATIENCE} seconds: {what}")
        time.sleep(0.02)


def totals(table: str) -> dict[str, int]:
    """The numbers below the table, by their names."""
    return {
        name: int(number.replace(",", ""))
        for name, number in re.findall(r"^(accepted|run|run twice|lost) +([\d,]+) *$", table, re.MULTILINE)
    }


class TallyTests(SynchronousTestCase):
    def tally(self, accepted: list[str], **workers: list[Event]) -> tuple[int, int, int, dict[str, int]]:
        """Run, run twice, lost, and jobs by worker: the same in whatever order the records are read."""
        tallies = []
        for order in itertools.permutations(workers):
            counter = Counter(list(workers))
            for worker in order:
                counter.add(worker, workers[worker])
            tally = counter.tally(accepted)
            tallies.append((tally.run, tally.run_twice, tally.lost, dict(tally.jobs)))
        self.assertEqual(tallies, tallies[:1] * len(tallies))
        return tallies[0]

    def test_jobs_that_began_and_ended_have_run(self) -> None:
        one = [Event(True, "1", 10), Event(False, "1", 11)]
        two = [Event(True, "2", 10), Event(False, "2", 12)]
        self.assertEqual(self.tally(["1", "2"], one=one, two=two), (2, 0, 0, {"one": 1, "two": 1}))

    def test_a_job_that_never_began_is_lost(self) -> None:
        self.assertEqual(self.tally(["1"], one=[]), (0, 0, 1, {"one": 0}))

    def test_a_job_that_began_and_did_not_end_is_lost(self) -> None:
        self.assertEqual(self.tally(["1"], one=[Event(True, "1", 10)]), (0, 0, 1, {"one": 0}))

    def test_a_job_that_a_dead_worker_had_begun_and_another_ran_has_run_once(self) -> None:
        one = [Event(True, "1", 10)]
        two = [Event(True, "1", 20), Event(False, "1", 21)]
        self.assertEqual(self.tally(["1"], one=one, two=two), (1, 0, 0, {"one": 0, "two": 1}))

    def test_a_job_that_began_again_after_its_end_has_run_twice(self) -> None:
        one = [Event(True, "1", 10), Event(False, "1", 11)]
        two = [Event(True, "1", 20), Event(False, "1", 21)]
        self.assertEqual(self.tally(["1"], one=one, two=two), (1, 1, 0, {"one": 1, "two": 1}))

    def test_a_job_that_began_again_has_run_twice_even_if_it_did_not_end_again(self) -> None:
        one = [Event(True, "1", 10), Event(False, "1", 11)]
        self.assertEqual(self.tally(["1"], one=one, two=[Event(True, "1", 20)]), (1, 1, 0, {"one": 1, "two": 0}))

    def test_a_job_that_two_ran_at_the_same_time_has_not_begun_again_after_its_end(self) -> None:
        one = [Event(True, "1", 10), Event(False, "1", 30)]
        two = [Event(True, "1", 20), Event(False, "1", 40)]
        self.assertEqual(self.tally(["1"], one=one, two=two), (1, 0, 0, {"one": 1, "two": 1}))

    def test_what_ran_and_was_not_accepted_makes_up_for_nothing(self) -> None:
        one = [Event(True, "2", 10), Event(False, "2", 11)]
        self.assertEqual(self.tally(["1"], one=one), (0, 0, 1, {"one": 1}))

    def test_one_id_in_two_answers_is_one_job_run_and_one_lost(self) -> None:
        one = [Event(True, "1", 10), Event(False, "1", 11)]
        self.assertEqual(self.tally(["1", "1"], one=one), (1, 0, 1, {"one": 1}))

    def test_shares_are_parts_of_all_that_was_run(self) -> None:
        counter = Counter(["one", "two"])
        self.assertEqual(counter.tally([]).shares, {"one": 0.0, "two": 0.0})
        for job_id, worker in (("1", "one"), ("2", "one"), ("3", "one"), ("4", "two")):
            counter.add(worker, [Event(True, job_id, 10), Event(False, job_id, 11)])
        self.assertEqual(counter.tally([]).shares, {"one": 0.75, "two": 0.25})


class RecordTests(SynchronousTestCase):
    def test_a_record_says_the_same_wherever_it_is_cut(self) -> None:
        data = b"begin 00ff 12\nend 00ff 345\n"
        for cut in range(len(data) + 1):
            record = Record("one")
            events = record.events(data[:cut]) + record.events(data[cut:])
            self.assertEqual(events, [Event(True, "00ff", 12), Event(False, "00ff", 345)])

    def test_a_line_that_is_not_complete_says_nothing(self) -> None:
        self.assertEqual(Record("one").events(b"begin 00ff 12\nend 00ff 34"), [Event(True, "00ff", 12)])

    def test_what_is_no_record_is_not_taken_for_one(self) -> None:
        for line in (b"began 00ff 12\n", b"begin 00ff\n", b"begin 00ff soon\n"):
            self.assertRaises(ValueError, Record("one").events, line)


class ScheduleTests(SynchronousTestCase):
    def test_without_a_fault_nothing_is_due(self) -> None:
        schedule = Schedule(Fault.NONE, 10)
        self.assertTrue(schedule.over)
        self.assertEqual([schedule.due(answers, 0.0) for answers in range(11)], [None] * 11)

    def test_a_worker_is_stopped_or_killed_once_and_half_way(self) -> None:
        for fault, number in ((Fault.STOP, signal.SIGTERM), (Fault.KILL, signal.SIGKILL)):
            schedule = Schedule(fault, 10)
            due = [schedule.due(answers, 0.0) for answers in range(11)]
            self.assertEqual(due, [None] * 5 + [number] + [None] * 5)
            self.assertTrue(schedule.over)

    def test_a_worker_is_thawed_at_four_fifths_if_it_was_frozen_for_long_enough(self) -> None:
        schedule = Schedule(Fault.FREEZE, 10)
        self.assertEqual(schedule.due(5, 100.0), signal.SIGSTOP)
        self.assertIsNone(schedule.due(7, 100.0 + FROZEN))
        self.assertEqual(schedule.due(8, 100.0 + FROZEN), signal.SIGCONT)
        self.assertTrue(schedule.over)

    def test_a_worker_stays_frozen_though_all_requests_are_answered(self) -> None:
        schedule = Schedule(Fault.FREEZE, 10)
        schedule.due(5, 100.0)
        self.assertIsNone(schedule.due(10, 100.0 + FROZEN - 0.1))
        self.assertFalse(schedule.over)
        self.assertEqual(schedule.due(10, 100.0 + FROZEN), signal.SIGCONT)


class ExperimentTests(SynchronousTestCase):
    """The whole pipeline, in processes, counted once more from the files that the workers wrote."""

    def run_plan(self, fault: Fault) -> Result:
        plan = Plan(requests=600, connections=20, workers=3, fault=fault)
        self.scratch = Path(self.mktemp()).absolute()
        self.scratch.mkdir()
        phases = []
        result = run_experiment(plan, self.scratch, lambda phase, through: phases.append(phase))
        self.assertEqual([phase for phase, _ in itertools.groupby(phases)], ["starting", "requests", "jobs"])
        self.check_count(result)
        self.assertEqual((result.tally.accepted, result.tally.run, result.tally.lost), (600, 600, 0))
        return result

    def check_count(self, result: Result) -> None:
        lines = []
        for worker, jobs in result.tally.jobs.items():
            text = (self.scratch / worker.replace(" ", "-") / RECORD).read_text()
            self.assertEqual(text.count("end "), jobs)
            lines += [line.split() for line in text.splitlines()]
        ended, twice = set(), set()
        for kind, job_id, _ in sorted(lines, key=lambda line: int(line[2])):
            if kind == "end":
                ended.add(job_id)
            elif job_id in ended:
                twice.add(job_id)
        self.assertEqual((result.tally.run, result.tally.run_twice), (len(ended), len(twice)))

    def log(self, worker: int) -> str:
        return (self.scratch / f"worker-{worker}.log").read_text()

    def test_without_a_fault_all_run_once_and_all_workers_take_part(self) -> None:
        tally = self.run_plan(Fault.NONE).tally
        self.assertEqual(tally.run_twice, 0)
        self.assertTrue(all(tally.jobs.values()), tally)

    def test_nothing_is_lost_with_a_worker_that_is_killed(self) -> None:
        tally = self.run_plan(Fault.KILL).tally
        self.assertNotIn("leaving:", self.log(1))
        self.assertIn("leaving:", self.log(2))
        self.assertLessEqual(tally.jobs["worker 1"], 300 + 20)

    def test_nothing_is_lost_or_run_twice_with_a_worker_that_is_stopped(self) -> None:
        tally = self.run_plan(Fault.STOP).tally
        self.assertIn("leaving:", self.log(1))
        self.assertEqual(tally.run_twice, 0)
        self.assertLessEqual(tally.jobs["worker 1"], 300 + 20)

    def test_nothing_is_lost_with_a_worker_that_is_frozen_and_thawed(self) -> None:
        start = time.monotonic()
        self.run_plan(Fault.FREEZE)
        self.assertGreater(time.monotonic() - start, FROZEN)


class ClientTests(SynchronousTestCase):
    def test_a_server_that_does_not_answer_is_given_up(self) -> None:
        self.patch(client, "STALLED", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as server:
            load = client.drive(server.getsockname()[1], 10, 2, lambda answers: None)
            error = self.assertRaises(DemoError, client.asyncio.run, load)
        self.assertIn("after 0 of 10", str(error))

    def test_a_server_that_is_not_there_is_said(self) -> None:
        (port,) = experiment.free_ports(1)
        error = self.assertRaises(DemoError, client.asyncio.run, client.drive(port, 10, 2, lambda answers: None))
        self.assertIn("connection 1 to the web process failed", str(error))


class ProcessesTests(SynchronousTestCase):
    def test_a_process_that_does_not_leave_is_killed_and_that_is_said(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        self.patch(processes, "_TWISTD", "import signal; print(signal.signal(15, signal.SIG_IGN), flush=True); input()")
        self.patch(processes, "DRAIN", 0)
        self.patch(processes, "MARGIN", 0.2)
        children = Processes(folder)
        with self.assertRaises(DemoError) as caught, children:
            child = children.start("worker 1", "zpipe-worker")
            wait_until((folder / "worker-1.log").read_text, "it ignores SIGTERM")
        self.assertIn("worker 1 did not leave", str(caught.exception))
        self.assertRaises(ProcessLookupError, os.kill, child.pid, 0)


class CommandTests(SynchronousTestCase):
    """``zpipe`` in this process."""

    def fails(self, *arguments: str) -> str:
        """The one line that it says why."""
        status, out, err = zpipe("demo", *arguments)
        self.assertEqual((status, out, err.count("\n")), (1, "", 1), err)
        return err

    def test_its_version_is_the_packages(self) -> None:
        self.assertEqual(zpipe("--version"), (0, f"zpipe {__version__}\n", ""))

    def test_help_names_the_commands_and_their_options(self) -> None:
        self.assertRegex(zpipe("--help")[1], r"(?m)^ +demo +run the whole pipeline under load")
        status, out, _ = zpipe("demo", "--help")
        self.assertEqual(status, 0)
        for option in ("-n REQUESTS", "-c CONNECTIONS", "--workers N", "--fault {none,stop,kill,freeze}"):
            self.assertIn(option, out)

    def test_bad_arguments_are_one_line_and_exit_status_2(self) -> None:
        for arguments in (
            [],
            ["dmo"],
            ["demo", "-n", "0"],
            ["demo", "-c", "many"],
            ["demo", "--workers", "-1"],
            ["demo", "--fault", "trip"],
            ["demo", "--fault", "kill", "--workers", "1"],
            ["demo", "20000"],
        ):
            status, out, err = zpipe(*arguments)
            self.assertEqual((status, out), (2, ""), arguments)
            self.assertRegex(err, r"\Azpipe( demo)?: .+ \(see zpipe( demo)? --help\)\n\Z")

    def test_a_loss_is_counted_and_is_exit_status_1(self) -> None:
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        (folder / "forgetful.py").write_text(
            "from zpipeline.demo.handler import record as remember\n"
            "def record(job):\n"
            "    if int(job.id[16:], 16) % 7:\n"
            "        remember(job)\n"
        )
        before = os.environ.get("PYTHONPATH", "")
        self.addCleanup(os.environ.__setitem__, "PYTHONPATH", before)
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(folder), before]))
        self.patch(experiment, "HANDLER", "forgetful:record")
        self.patch(experiment, "STALLED", 1.0)
        status, out, err = zpipe("demo", "-n", "140", "-c", "5", "--workers", "1")
        self.assertEqual((status, err), (1, ""))
        self.assertEqual(totals(out), {"accepted": 140, "run": 120, "run twice": 0, "lost": 20})

    def test_a_program_that_is_not_there_is_one_line(self) -> None:
        self.patch(sys, "executable", "/nonexistent/python")
        self.assertIn("worker 1 could not be started: ", self.fails("-n", "10"))

    def test_a_port_that_is_taken_is_one_line(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            ports = [*experiment.free_ports(1), taken.getsockname()[1]]
            self.patch(experiment, "free_ports", lambda count: ports)
            said = self.fails("-n", "10", "--workers", "1")
        self.assertRegex(said, "worker 1 has ended .exit status 1.: zpipe-worker: .* address already in use")


class ProgramTests(SynchronousTestCase):
    """``zpipe demo`` as a process of its own, which leaves nothing behind."""

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        self.temporary = Path(self.mktemp()).absolute()
        self.temporary.mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", "import sys; from zpipeline.cli import main; sys.exit(main())", "demo", *arguments],
            cwd=NOT_WRITABLE,
            env={**os.environ, "TMPDIR": str(self.temporary), "PATH": ""},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # As from a shell: who inherits its children is of another session.
            start_new_session=True,
        )
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        return process

    def children(self) -> list[Path]:
        """Its processes, found by where they work."""
        found = []
        for process in PROCESSES.glob("[0-9]*"):
            try:
                if (process / "cwd").readlink().is_relative_to(self.temporary):
                    found.append(process)
            except OSError:  # it is another's, or gone
                continue
        return found

    def end(self, process: subprocess.Popen[str], status: int) -> str:
        out, err = process.communicate(timeout=PATIENCE)
        self.assertEqual((process.returncode, err), (status, ""))
        self.assertEqual((list(self.temporary.iterdir()), self.children()), ([], []))
        return out

    def test_it_runs_anywhere_and_prints_no_control_sequence(self) -> None:
        out = self.end(self.start("-n", "600", "-c", "20", "--fault", "kill"), 0)
        self.assertEqual({character for character in out if not character.isprintable()}, {"\n"})
        counts = totals(out)
        self.assertEqual((counts["accepted"], counts["run"], counts["lost"]), (600, 600, 0))
        self.assertIn("worker 1, killed half-way", out)

    def test_it_tidies_up_when_it_is_interrupted_or_terminated(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            process = self.start("-n", "10000000")
            wait_until(lambda: list(self.temporary.glob(f"*/*/{RECORD}")), "a job has run")
            process.send_signal(number)
            self.assertEqual(self.end(process, 128 + number), "")

    def test_when_it_is_killed_none_of_its_processes_stays_not_even_a_frozen_one(self) -> None:
        process = self.start("-n", "600", "-c", "20", "--fault", "freeze")
        wait_until(lambda: any(") T " in (child / "stat").read_text() for child in self.children()), "one is frozen")
        self.assertEqual(len(self.children()), 4)
        process.kill()
        wait_until(lambda: not self.children(), "all have ended")

    if not PROCESSES.is_dir():
        skip = "processes are found in /proc"
