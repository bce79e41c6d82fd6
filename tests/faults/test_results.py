"""Clients that wait for the results of their jobs, whatever happens meanwhile: each gets its own, or hears why not."""

from __future__ import annotations

import json
import signal
import sys
from concurrent.futures import Future, ThreadPoolExecutor

from tests.faults.case import RigCase
from tests.faults.load import Answer, get, request
from tests.faults.rig import Process, free_port

CLIENTS = 200
ROUNDS = 5
WAIT = "Prefer: wait=60\r\n"


def ask(port: int, body: bytes) -> Answer:
    """Push a job, and wait for its result."""
    return request(port, "POST", "/", body, WAIT, seconds=90)


def body_of(client: int, turn: int) -> bytes:
    """Of a job that is nobody else's."""
    return b"echo %d %d" % (client, turn)


class Results(RigCase):
    """With zpipe-worker."""

    def start(self, *options: object, seconds: float = 0.002) -> tuple[Process, list[Process]]:
        workers = [self.rig.worker(handler="echo", seconds=seconds) for _ in range(3)]
        web = self.rig.web([worker.port for worker in workers], *options)
        self.rig.until_ready(web, 3)
        return web, workers

    def clients(self, web: Process, pool: ThreadPoolExecutor) -> list[Future[list[tuple[bytes, Answer]]]]:
        """Each waits for one job after the other: what it pushed, and what it was answered."""

        def run(client: int) -> list[tuple[bytes, Answer]]:
            return [(body, ask(web.port, body)) for body in [body_of(client, turn) for turn in range(ROUNDS)]]

        return [pool.submit(run, client) for client in range(CLIENTS)]

    def check(self, web: Process, answers: list[tuple[bytes, Answer]]) -> None:
        """Each has its own result, which is there for others too; and what was answered has run."""
        ids = []
        for body, (status, headers, content) in answers:
            self.assertEqual((status, content), (200, body))
            self.assertEqual(headers["preference-applied"], "wait=60")
            ids.append(headers["location"].removeprefix("/jobs/"))
        self.assertEqual(len(set(ids)), CLIENTS * ROUNDS, "no two were answered by the same job")
        count = self.rig.count(ids)
        self.assertEqual((count.run, count.lost, count.dead), (CLIENTS * ROUNDS, 0, 0))
        for (body, _), job_id in list(zip(answers, ids, strict=True))[:: CLIENTS // 10]:
            status, _, content = get(web.port, f"/jobs/{job_id}/result")
            self.assertEqual((status, content), (200, body))

    def test_each_of_200_clients_gets_its_own_result_while_a_worker_is_killed(self) -> None:
        """One of three workers, in the middle of it, with what it has at hand."""
        web, workers = self.start()
        with ThreadPoolExecutor(CLIENTS) as pool:
            running = self.clients(web, pool)
            self.rig.until("half of it has run", lambda: len(self.rig.ended()) > CLIENTS * ROUNDS // 2)
            workers[1].signal(signal.SIGKILL)
            answers = [answer for client in running for answer in client.result(120)]
        self.rig.until_ready(web, 2)
        self.assertTrue(self.rig.record(workers[1].port).begun, "it had its part")
        self.check(web, answers)


class ResultsInMemory(Results):
    """Without a journal."""

    def start(self, *options: object, seconds: float = 0.002) -> tuple[Process, list[Process]]:
        return super().start("--no-journal", *options, seconds=seconds)


class ResultsOfTheExample(Results):
    """With a worker that was written from docs/protocol.rst alone."""

    example = True


class TheEnd(RigCase):
    """The web side goes while clients wait."""

    def outcomes(self, *options: object, clients: int = 10) -> list[Answer]:
        """What clients are answered whose jobs take too long for a web side that is stopped."""
        worker = self.rig.worker(handler="record_async")
        web = self.rig.web([worker.port], "--drain=0.2", *options)
        self.rig.until_ready(web, 1)
        with ThreadPoolExecutor(clients) as pool:
            waiting = [pool.submit(ask, web.port, b"30") for _ in range(clients)]
            self.rig.until("all have begun", lambda: len(self.rig.record(worker.port).begun) == clients)
            web.end()
            return [each.result(60) for each in waiting]

    def assert_202(self, answers: list[Answer]) -> None:
        """Each has the id of its own job, as if it had not waited."""
        self.assertEqual({status for status, _, _ in answers}, {202})
        self.assertEqual(len({json.loads(content)["id"] for _, _, content in answers}), len(answers))

    def test_whose_job_is_not_settled_when_the_web_side_stops_gets_202(self) -> None:
        self.assert_202(self.outcomes())

    def test_so_it_is_in_memory_too(self) -> None:
        self.assert_202(self.outcomes("--no-journal"))

    def test_an_application_that_ends_with_its_pipeline_can_answer_before_that(self) -> None:
        worker = self.rig.worker(handler="record_async")
        port = free_port()
        web = self.rig.start("embedded", [sys.executable, "-m", "tests.faults.embedded", port, worker.port], port)
        self.rig.until("it serves", lambda: "it serves" in web.log)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(request, port, "POST", "/", b"30")
            self.rig.until("it has begun", lambda: self.rig.record(worker.port).begun)
            web.end()
            status, _, content = waiting.result(60)
        self.assertEqual(status, 200)
        self.assertIn(b"is not settled yet", content)
