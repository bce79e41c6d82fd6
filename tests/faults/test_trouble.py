"""Addresses where nobody answers, strangers who send garbage, and several webs at once."""

from __future__ import annotations

import random
import socket
import struct
import threading

import zmq
from twisted.trial.unittest import SynchronousTestCase

from tests.faults.load import Load
from tests.faults.records import Count
from tests.faults.rig import Process, Rig, free_port
from zpipeline import protocol
from zpipeline.job import encode_headers

JOBS = 2000
NUMBERS = [b"job %d" % number for number in range(JOBS)]


class BadAddresses(SynchronousTestCase):
    """Each is said in one clear line, and the rest works on."""

    def said(self, rig: Rig, web: Process, address: str) -> list[str]:
        """What the log says of that address."""
        return [line.split("] ", 1)[1] for line in web.log.splitlines() if f"{address}:" in line]

    def test_nobody_there_answers_speaks_or_exists(self) -> None:
        """A silent address, a plain PULL socket, a host name that does not resolve and a web server."""
        with Rig() as rig, socket.create_server(("127.0.0.1", 0)) as silent, zmq.Context() as context:
            plain = context.socket(zmq.PULL)
            plain.linger = 0
            plain_address = f"tcp://127.0.0.1:{plain.bind_to_random_port('tcp://127.0.0.1')}"
            silent_address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
            other = rig.web([free_port()])
            http_address = f"tcp://127.0.0.1:{other.port}"
            nowhere = "tcp://no-such-host.invalid:4444"
            refused = f"tcp://127.0.0.1:{free_port()}"
            worker = rig.worker()
            addresses = [silent_address, plain_address, nowhere, http_address, refused]
            web = rig.web([worker.port, *addresses])
            rig.until_ready(web, 1)
            load = Load(web.port, NUMBERS[:300]).run(10)
            rig.until_all_ran(load.accepted)
            for address in addresses:
                rig.until(f"{address} is spoken of", lambda address=address: self.said(rig, web, address), 40)
            # Each was tried at least once more by now: libzmq refuses in milliseconds, and the deadline is 10 seconds.
            lines = {address: self.said(rig, web, address) for address in addresses}
            self.assertEqual([len(said) for said in lines.values()], [1] * 5, lines)
            self.assertIn("no answer", lines[silent_address][0])
            self.assertIn("its reports do not reach", lines[plain_address][0])
            self.assertIn("use --plain", lines[plain_address][0])
            self.assertIn("does not resolve", lines[nowhere][0])
            self.assertIn("the other side does not speak ZeroMQ", lines[http_address][0])
            self.assertIn("refused", lines[refused][0])
            plain.close()
            load = Load(web.port, NUMBERS[:300]).run(10)
            self.assertEqual(rig.until_all_ran(load.accepted), Count.all_ran(300))


class Strangers(SynchronousTestCase):
    """10,000 messages of garbage and 2,000 connections opened and dropped, on the worker's port and on the sink."""

    example = False

    def test_every_valid_job_runs_once(self) -> None:
        """While they come."""
        with Rig(self.example) as rig:
            workers = rig.pool()
            sink = free_port()
            web = rig.web([worker.port for worker in workers], f"--sink=tcp://127.0.0.1:{sink}")
            rig.until_ready(web, 3)
            strangers = [
                threading.Thread(target=throw_garbage, args=(port, seed))
                for seed, port in enumerate((workers[0].port, sink))
            ]
            strangers += [threading.Thread(target=come_and_go, args=(port,)) for port in (workers[0].port, sink)]
            for stranger in strangers:
                stranger.start()
            load = Load(web.port, NUMBERS).run(20)
            for stranger in strangers:
                stranger.join()
            load_after = Load(web.port, NUMBERS[:300]).run(20)
            accepted = load.accepted + load_after.accepted
            self.assertEqual(len(accepted), JOBS + 300)
            self.assertEqual(rig.until_all_ran(accepted), Count.all_ran(JOBS + 300))
            self.assertEqual(web.log.count("said once for each host"), 1)
            if not self.example:  # it does not speak of messages of types that it does not know
                self.assertEqual(workers[0].log.count("said once for each host"), 1)
            self.assertNotIn("Traceback", web.log + "".join(worker.log for worker in workers))
            rig.until_ready(web, 3)


class StrangersWithTheExample(Strangers):
    """With a worker that was written from docs/protocol.rst alone."""

    example = True


class SeveralWebs(SynchronousTestCase):
    """Two webs on the same three workers."""

    example = False

    def test_each_keeps_its_promises_while_a_worker_is_killed(self) -> None:
        """Every job of both runs, and the other web does not notice when one ends."""
        with Rig(self.example) as rig:
            workers = rig.pool()
            webs = [rig.web([worker.port for worker in workers]) for _ in range(2)]
            for web in webs:
                rig.until_ready(web, 3)
            loads = [Load(web.port, NUMBERS) for web in webs]
            loads[0].at(JOBS // 2, workers[0].popen.kill)
            threads = [threading.Thread(target=load.run, args=(20,)) for load in loads]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            self.assertEqual([len(load.accepted) for load in loads], [JOBS, JOBS])
            count = rig.until_all_ran(loads[0].accepted + loads[1].accepted)
            self.assertEqual(count, Count.all_ran(2 * JOBS, count.run_twice))
            webs[0].end()
            rest = Load(webs[1].port, NUMBERS[:300]).run(10)
            self.assertEqual(rig.until_all_ran(rest.accepted), Count.all_ran(300))


class SeveralWebsWithTheExample(SeveralWebs):
    """With a worker that was written from docs/protocol.rst alone."""

    example = True


class PlainPeers(SynchronousTestCase):
    """Programs that know nothing of zpipeline."""

    def test_plain_pull_sockets_behind_a_plain_web(self) -> None:
        """Each job is one frame, to each in turn."""
        with Rig() as rig, zmq.Context() as context:
            pulls = [context.socket(zmq.PULL) for _ in range(3)]
            ports = [pull.bind_to_random_port("tcp://127.0.0.1") for pull in pulls]
            web = rig.web(ports, "--plain")
            rig.until_ready(web, 3)
            load = Load(web.port, NUMBERS[:300]).run(1)
            self.assertEqual(len(load.accepted), 300)
            received = []
            for pull in pulls:
                pull.rcvtimeo = 30_000
                received.append([pull.recv_multipart() for _ in range(100)])
                pull.close(0)
            self.assertEqual(sorted(frames[0] for got in received for frames in got), sorted(NUMBERS[:300]))
            self.assertEqual({len(frames) for got in received for frames in got}, {1})

    def test_a_plain_push_socket_into_a_worker(self) -> None:
        """Single frames and several: the body is the last."""
        with Rig() as rig, zmq.Context() as context:
            worker = rig.worker()
            push = context.socket(zmq.PUSH)
            push.connect(f"tcp://127.0.0.1:{worker.port}")
            for number in range(500):
                push.send(b"single %d" % number)
                push.send_multipart([b"first", b"", b"multi %d" % number])
            rig.until("all have run", lambda: len(rig.record(worker.port).ended) == 1000)
            record = rig.record(worker.port)
            expected = [text for n in range(500) for text in (f"single {n}", f"multi {n}")]
            self.assertEqual(record.bodies, expected)
            self.assertEqual(len(set(record.ended)), 1000)
            push.close(0)
            self.assertEqual(worker.end(), 0)


def throw_garbage(port: int, seed: int) -> None:
    """Random frames, and real messages with foreign sessions and broken bytes."""
    chance = random.Random(seed)
    with zmq.Context() as context, context.socket(zmq.PUSH) as push:
        push.linger = 5000
        push.connect(f"tcp://127.0.0.1:{port}")
        for _ in range(5000):
            push.send_multipart([protocol.MAGIC + chance.randbytes(chance.randrange(8)), chance.randbytes(20)])
            push.send_multipart(_mutated(chance, _real(chance)))


def _real(chance: random.Random) -> list[bytes]:
    session, numbers = chance.getrandbits(64), [chance.randrange(1, 5000) for _ in range(3)]
    return chance.choice(
        [
            protocol.encode_jobs(session, numbers, [1] * 3, [0.0] * 3, [encode_headers(None)] * 3, [b"garbage"] * 3),
            protocol.encode(protocol.Close(session)),
            protocol.encode(protocol.Ready(session, 1, 1, "host", 1, "handler", "version")),
            protocol.encode(protocol.Done(session, numbers)),
            protocol.encode(protocol.Failed(session, numbers[0], protocol.RETRY, -1.0, "reason", "traceback")),
            protocol.encode(protocol.Returned(session, numbers)),
            protocol.encode(protocol.State(session, 1, 5, 1 << 40)),
            protocol.encode(protocol.Bye(session)),
        ]
    )


def _mutated(chance: random.Random, frames: list[bytes]) -> list[bytes]:
    place = chance.randrange(1, len(frames))
    if frames[place] and chance.random() < 0.7:
        at = chance.randrange(len(frames[place]))
        frames[place] = frames[place][:at] + chance.randbytes(1) + frames[place][at + 1 :]
    if chance.random() < 0.2:
        frames.append(b"more")
    return frames


def come_and_go(port: int) -> None:
    """2,000 connections: some dropped at once, some after a greeting, some with a reset."""
    for number in range(2000):
        with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
            if number % 2:
                connection.sendall(b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL")
            if number % 3 == 0:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
