"""zpipeline.sockets on real sockets: what arrives, what is told of connections, and what the reactor is spared."""

from __future__ import annotations

import errno
import http.client
import itertools
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import zmq
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory as ProtocolFactory
from twisted.internet.protocol import Protocol
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread
from twisted.internet.utils import getProcessOutputAndValue
from twisted.trial.unittest import TestCase
from twisted.web.resource import Resource
from twisted.web.server import Site

from tests import zmq_peers
from tests.zmq_kit import Act, FakePull, Happenings, Inbox, Recorder, close_plain, plain_socket
from zpipeline import sockets
from zpipeline.errors import UsageError
from zpipeline.sockets import (
    DRAIN_MESSAGES,
    DRAIN_SECONDS,
    HEARTBEAT_MS,
    HEARTBEAT_TIMEOUT_MS,
    HIGH_WATER_MARK,
    LINGER_MS,
    Factory,
    Pull,
    Push,
)

LOOPBACK = "tcp://127.0.0.1:*"
KB_100 = bytes(100_000)


class ReactorTests(TestCase):
    """The same scenario on each reactor, in a process of its own."""

    timeout = 120

    async def run_on(self, name: str) -> None:
        out, err, code = await getProcessOutputAndValue(
            sys.executable, ["-m", "tests.reactor_scenario", name], dict(os.environ), str(zmq_peers.ROOT)
        )
        self.assertEqual((out, err, code), (b"", b"", 0), err.decode())

    async def test_the_sockets_work_on_the_epoll_reactor(self) -> None:
        await self.run_on("epoll")

    async def test_the_sockets_work_on_the_poll_reactor(self) -> None:
        await self.run_on("poll")

    async def test_the_sockets_work_on_the_select_reactor(self) -> None:
        await self.run_on("select")

    async def test_the_sockets_work_on_the_asyncio_reactor(self) -> None:
        await self.run_on("asyncio")


class SocketTestCase(TestCase):
    """A factory, and plain peers that end with the test."""

    timeout = 60

    def setUp(self) -> None:
        self.factory = Factory(reactor)
        self.addCleanup(self.factory.close)

    def pull(self, act: Callable[[list[bytes]], None] = lambda frames: None, address: str = LOOPBACK) -> Any:
        """A Pull, and its inbox."""
        inbox = Inbox(reactor, act)
        return Pull(self.factory, address, inbox), inbox

    def push(self, address: str, *, acts: dict[str, Act] | None = None, **options: Any) -> Any:
        """A Push, and its listener."""
        recorder = Recorder(reactor, **acts or {})
        return Push(self.factory, address, recorder, **options), recorder

    async def connected(self, address: str, **options: Any) -> Any:
        """A Push that is connected, and its listener."""
        push, recorder = self.push(address, **options)
        await recorder.until_heard("connected")
        return push, recorder

    def plain_push(self, address: str) -> zmq.Socket[bytes]:
        """A PUSH of pyzmq."""
        plain = plain_socket(zmq.PUSH)
        self.addCleanup(deferToThread, close_plain, plain)
        plain.connect(address)
        return plain

    def plain_pull(self, high_water_mark: int = 0) -> tuple[zmq.Socket[bytes], str]:
        """A bound PULL of pyzmq, and its address."""
        plain = plain_socket(zmq.PULL, high_water_mark=high_water_mark)
        self.addCleanup(deferToThread, close_plain, plain)
        return plain, f"tcp://127.0.0.1:{plain.bind_to_random_port('tcp://127.0.0.1')}"

    def already_there(self, count: int) -> None:
        """So many messages, which a PUSH of the same context sends: they are in the Pull on inproc://here at once."""
        plain = self.factory.context.socket(zmq.PUSH)
        plain.set_hwm(0)
        plain.connect("inproc://here")
        for number in range(count):
            plain.send(b"%d" % number, zmq.NOBLOCK)
        plain.close()

    def idle_peer(self) -> tuple[Any, str]:
        """A process with a PULL that nobody reads, and its address."""
        process = zmq_peers.start("idle")
        self.addCleanup(zmq_peers.end, process)
        return process, process.stdout.readline().decode().strip()

    def server(self, protocol: type[Protocol]) -> str:
        """The address of a TCP server that speaks no ZeroMQ."""
        port = reactor.listenTCP(0, ProtocolFactory.forProtocol(protocol), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"tcp://127.0.0.1:{port.getHost().port}"


def numbers(count: int) -> list[list[bytes]]:
    """What `already_there` sends."""
    return [[b"%d" % number] for number in range(count)]


class Turns:
    """Counts messages by turn of the reactor."""

    def __init__(self, inbox: Inbox) -> None:
        self.inbox = inbox
        self.largest = 0
        self._before = 0
        self._next = reactor.callLater(0, self._turn)

    def _turn(self) -> None:
        now = len(self.inbox.messages)
        self.largest = max(self.largest, now - self._before)
        self._before = now
        self._next = reactor.callLater(0, self._turn)

    def stop(self) -> None:
        self._next.cancel()


class DrainTests(SocketTestCase):
    """In one turn a socket is drained twice at most: for its descriptor, and because it was not empty."""

    async def test_a_turn_reads_a_bounded_number_of_messages(self) -> None:
        _pull, inbox = self.pull(address="inproc://here")
        self.already_there(20_000)
        turns = Turns(inbox)
        await inbox.until_count(20_000)
        turns.stop()
        self.assertLessEqual(turns.largest, 2 * DRAIN_MESSAGES)

    async def test_a_turn_takes_a_bounded_time_when_messages_are_slow_to_handle(self) -> None:
        slow = DRAIN_SECONDS / 2.5
        _pull, inbox = self.pull(lambda frames: time.sleep(slow), address="inproc://here")
        self.already_there(150)
        turns = Turns(inbox)
        await inbox.until_count(150)
        turns.stop()
        self.assertLessEqual(turns.largest, 2 * 3)

    async def test_what_one_drain_leaves_is_read_though_nothing_else_happens(self) -> None:
        _pull, inbox = self.pull(address="inproc://here")
        self.already_there(10 * DRAIN_MESSAGES)
        await inbox.until_count(10 * DRAIN_MESSAGES)
        self.assertEqual(inbox.messages, numbers(10 * DRAIN_MESSAGES))

    async def test_drain_reads_all_that_is_there_before_it_returns(self) -> None:
        pull, inbox = self.pull(address="inproc://here")
        self.already_there(10 * DRAIN_MESSAGES)
        pull.drain(30)
        self.assertEqual(inbox.messages, numbers(10 * DRAIN_MESSAGES))

    async def test_what_drain_had_no_time_for_is_read_though_nothing_else_happens(self) -> None:
        pull, inbox = self.pull(address="inproc://here")
        self.already_there(DRAIN_MESSAGES)
        pull.drain(0)
        self.assertLess(len(inbox.messages), DRAIN_MESSAGES)
        await inbox.until_count(DRAIN_MESSAGES)
        self.assertEqual(inbox.messages, numbers(DRAIN_MESSAGES))

    async def test_a_message_that_is_not_handled_leaves_the_socket_in_the_reactor(self) -> None:
        def act(frames: list[bytes]) -> None:
            if frames == [b"0"]:
                raise ZeroDivisionError("one that this test has made")

        _pull, inbox = self.pull(act, address="inproc://here")
        self.already_there(1)
        await inbox.until_count(1)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        self.already_there(3)
        await inbox.until_count(4)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)


class FloodTests(SocketTestCase):
    """A peer that sends as fast as it can for a second and a half."""

    async def flood(self, size: int) -> int:
        """How many messages it sent; all have arrived."""
        pull, self.inbox = self.pull(lambda frames: frames.clear())
        self.inbox.messages = Tally()
        process = zmq_peers.start("flood", pull.address, size, 1.5)
        self.addCleanup(zmq_peers.end, process)
        sent = int(await deferToThread(process.stdout.readline))
        await self.inbox.until_count(sent)
        return sent

    async def flood_beside_a_timer(self, size: int) -> None:
        counts = [0]
        timer = LoopingCall(lambda: counts.append(len(self.inbox.messages)))
        self.inbox = Inbox(reactor)
        timer.start(0.01)
        sent = await self.flood(size)
        timer.stop()
        under_flood = [count for count in counts if 0 < count < sent]
        self.assertGreater(len(under_flood), 15)
        self.assertLess(max(late - early for early, late in itertools.pairwise(counts)), sent / 5)

    async def test_small_messages_do_not_starve_a_timer(self) -> None:
        await self.flood_beside_a_timer(10)

    async def test_large_messages_do_not_starve_a_timer(self) -> None:
        await self.flood_beside_a_timer(1 << 20)

    async def test_a_flood_does_not_starve_an_http_server(self) -> None:
        port = reactor.listenTCP(0, Site(_Hello()), interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.inbox = Inbox(reactor)
        counts: list[int] = []
        flooded = False

        def ask() -> None:
            while not flooded:
                connection = http.client.HTTPConnection("127.0.0.1", port.getHost().port, timeout=60)
                connection.request("GET", "/")
                assert connection.getresponse().read() == b"hello"
                connection.close()
                counts.append(len(self.inbox.messages))

        asking = deferToThread(ask)
        sent = await self.flood(10)
        flooded = True
        await asking
        self.assertGreater(len([count for count in counts if 0 < count < sent]), 10)


class Tally:
    """As an inbox's list, of a million messages."""

    def __init__(self) -> None:
        self._count = 0

    def append(self, message: list[bytes]) -> None:
        self._count += 1

    def __len__(self) -> int:
        return self._count


class _Hello(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return b"hello"


class IdleTests(SocketTestCase):
    """A socket that has nothing to do costs nothing."""

    async def test_a_push_that_is_told_that_its_peer_has_read_does_not_spin(self) -> None:
        plain, address = self.plain_pull()
        push, _ = await self.connected(address, high_water_mark=10)
        for _ in range(8):  # beyond the half of its mark, it hears how many have gone out
            self.assertTrue(push.push([b"x"]))
        await deferToThread(lambda: [plain.recv() for _ in range(8)])
        counts = Reads(push)
        await deferLater(reactor, 0.2)
        self.assertLess(counts.reads, 20)

    async def test_a_push_whose_connection_is_gone_does_not_spin(self) -> None:
        pull, _ = self.pull()
        push, recorder = await self.connected(pull.address)
        pull.close()
        await recorder.until_heard("disconnected")
        counts = Reads(push)
        await deferLater(reactor, 0.2)
        self.assertLess(counts.reads, 20)


class Reads:
    """Counts how often the reactor has a connection read."""

    def __init__(self, connection: Any) -> None:
        self.reads = 0
        self._read = connection.doRead
        connection.doRead = self

    def __call__(self) -> None:
        self.reads += 1
        self._read()


def large(number: int) -> list[bytes]:
    """A message of 100 kB and one frame, which is a number."""
    return [b"%-100000d" % number]


class WritableTests(SocketTestCase):
    """A Push at its high-water mark. Kernel buffers hold the first of what it sends: messages are large."""

    async def full(self, **acts: Act) -> tuple[zmq.Socket[bytes], Push, Recorder, int]:
        """A peer that does not read, a Push, its listener, and how many messages it took."""
        plain, address = self.plain_pull(high_water_mark=10)
        push, recorder = await self.connected(address, high_water_mark=10, acts=acts)
        sent = 0
        while push.socket.poll(100, zmq.POLLOUT):  # until the kernel, too, takes nothing any more
            sent += push.push(large(sent))
        self.assertFalse(push.push(large(sent)))
        return plain, push, recorder, sent

    def receive(self, plain: zmq.Socket[bytes], count: int) -> Deferred[list[int]]:
        """The numbers of the next messages."""
        return deferToThread(lambda: [int(plain.recv()) for _ in range(count)])

    async def test_a_socket_at_its_mark_takes_nothing_and_says_when_it_does_again(self) -> None:
        plain, _push, recorder, sent = await self.full()
        self.assertEqual(recorder.heard, ["connected"])
        received = self.receive(plain, sent)
        await recorder.until_heard("writable")
        self.assertEqual(await received, [*range(sent)])
        self.assertEqual(recorder.heard, ["connected", "writable"])

    async def test_what_is_sent_whenever_the_socket_is_writable_arrives_complete_and_in_order(self) -> None:
        total = 2000

        def fill() -> None:
            while self.sent < total and push.push(large(self.sent)):
                self.sent += 1

        plain, push, recorder, self.sent = await self.full(writable=fill)
        self.assertEqual(await self.receive(plain, total), [*range(total)])
        self.assertGreater(recorder.heard.count("writable"), 1)

    async def test_a_push_that_succeeds_first_does_not_swallow_the_notice(self) -> None:
        plain, push, recorder, sent = await self.full()
        # In one turn of the reactor: room is made, and it is sending that hears of it, and empties the descriptor.
        # (Messages are of one frame: libzmq tells of room again with the next frame, when there is no more of it.)
        read = 0
        while not select.select([push.fileno()], [], [], 0.05)[0]:
            plain.recv()
            read += 1
        time.sleep(0.1)  # for a send, libzmq does not look again in the first milliseconds after it has looked
        self.assertTrue(push.push([b"-1"]))
        await recorder.until_heard("writable")
        self.assertEqual((await self.receive(plain, sent - read + 1))[-1], -1)

    async def test_a_notice_that_is_not_handled_leaves_the_socket_in_the_reactor(self) -> None:
        def act() -> None:
            if recorder.heard.count("writable") == 1:
                raise ZeroDivisionError("one that this test has made")

        plain, push, recorder, sent = await self.full(writable=act)
        await self.receive(plain, sent)
        await recorder.until_heard("writable")
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)
        more = 0
        while push.push(large(more)):
            more += 1
        await self.receive(plain, more)
        await recorder.until(lambda: recorder.heard.count("writable") == 2)

    async def test_a_message_whose_connection_dies_in_the_middle_counts_as_sent(self) -> None:
        """libzmq takes the rest and drops it, or refuses it: which one depends on when its other thread looks."""
        pull, _ = self.pull()
        push, recorder = await self.connected(pull.address)

        class Frames(list):  # type: ignore[type-arg]
            def __getitem__(self, key: Any) -> Any:
                return self.middle() if isinstance(key, slice) else super().__getitem__(key)

            def middle(self) -> Iterator[bytes]:
                pull.close()
                deadline = time.monotonic() + 1
                while time.monotonic() < deadline:
                    yield b"b"
                    time.sleep(0.001)

        self.assertTrue(push.push(Frames([b"a", b"b", b"c"])))
        await recorder.until_heard("disconnected")
        self.assertEqual(recorder.heard, ["connected", "disconnected"])

    async def test_a_message_of_which_the_rest_is_refused_counts_as_sent(self) -> None:
        pull, _ = self.pull()
        push, _ = await self.connected(pull.address)
        socket, sent = push.socket, []

        class Dying:
            def send(self, frame: bytes, flags: int) -> None:
                if sent:
                    raise zmq.Again
                sent.append(frame)

            def __getattr__(self, name: str) -> Any:
                return getattr(socket, name)

        push.socket = Dying()
        self.assertTrue(push.push([b"a", b"b", b"c"]))
        push.socket = socket
        self.assertEqual(sent, [b"a"])


class OptionTests(SocketTestCase):
    """What the sockets are set to."""

    def options(self, connection: Any, *names: str) -> dict[str, int]:
        return {name: connection.socket.get(getattr(zmq, name)) for name in names}

    async def test_a_pull_has_high_water_marks_and_a_largest_frame(self) -> None:
        pull, _ = self.pull()
        self.assertEqual(
            self.options(pull, "SNDHWM", "RCVHWM", "MAXMSGSIZE", "LINGER"),
            {"SNDHWM": HIGH_WATER_MARK, "RCVHWM": HIGH_WATER_MARK, "MAXMSGSIZE": 256 << 20, "LINGER": 0},
        )

    async def test_a_push_has_high_water_marks_and_does_not_reconnect_by_itself(self) -> None:
        push, _ = self.push("tcp://127.0.0.1:1")
        self.assertEqual(
            self.options(push, "SNDHWM", "RECONNECT_IVL", "HEARTBEAT_IVL", "LINGER"),
            {"SNDHWM": HIGH_WATER_MARK, "RECONNECT_IVL": -1, "HEARTBEAT_IVL": 0, "LINGER": 0},
        )

    async def test_a_push_has_the_high_water_mark_and_the_heartbeats_that_it_was_given(self) -> None:
        push, _ = self.push("tcp://127.0.0.1:1", heartbeats=True, high_water_mark=7)
        self.assertEqual(
            self.options(push, "SNDHWM", "HEARTBEAT_IVL", "HEARTBEAT_TIMEOUT"),
            {"SNDHWM": 7, "HEARTBEAT_IVL": HEARTBEAT_MS, "HEARTBEAT_TIMEOUT": HEARTBEAT_TIMEOUT_MS},
        )

    async def test_a_push_does_not_reconnect(self) -> None:
        pull, _ = self.pull()
        push, recorder = await self.connected(pull.address)
        address = pull.address
        pull.close()
        await recorder.until_heard("disconnected")
        plain = plain_socket(zmq.PULL)
        self.addCleanup(deferToThread, close_plain, plain)
        await deferToThread(bind_again, plain, address)
        push.push([b"lost"])
        self.assertFalse(await deferToThread(plain.poll, 500))
        self.assertEqual(recorder.heard, ["connected", "disconnected"])

    async def test_ipv6_is_for_addresses_in_brackets(self) -> None:
        for address, ipv6 in (("tcp://127.0.0.1:1", 0), ("tcp://[::1]:1", 1)):
            push, _ = self.push(address)
            self.assertEqual(self.options(push, "IPV6"), {"IPV6": ipv6})

    async def test_a_pull_is_all_that_a_pull_puts_into_the_reactor(self) -> None:
        pull, _ = self.pull()
        self.assertEqual(self.factory.connections, {pull})

    async def test_a_frame_that_is_too_large_costs_its_sender_the_connection_and_nobody_else(self) -> None:
        self.patch(sockets, "MAX_FRAME", 1000)
        pull, inbox = self.pull()
        good, _ = await self.connected(pull.address)
        bad, recorder = await self.connected(pull.address)
        bad.push([bytes(1001)])
        await recorder.until_heard("disconnected")
        good.push([bytes(1000)])
        await inbox.until_count(1)
        self.assertEqual(inbox.messages, [[bytes(1000)]])


def bind_again(plain: zmq.Socket[bytes], address: str) -> None:
    """Bind as soon as who had the address before has let it go."""
    deadline = time.monotonic() + 30
    while True:
        try:
            plain.bind(address)
            return
        except zmq.ZMQError:
            if time.monotonic() > deadline:
                raise


class BindTests(SocketTestCase):
    """Where a Pull is bound, and what it says when it cannot be."""

    async def test_a_star_for_a_port_takes_a_free_one(self) -> None:
        pull, _inbox = self.pull()
        self.assertRegex(pull.address, r"\Atcp://127\.0\.0\.1:[1-9]\d+\Z")

    async def test_each_message_tells_its_peers_host(self) -> None:
        pull, inbox = self.pull()
        self.plain_push(pull.address).send(b"")
        await inbox.until_count(1)
        self.assertEqual(inbox.hosts, {"127.0.0.1"})

    async def test_a_message_that_came_no_way_of_the_network_has_no_host(self) -> None:
        _pull, inbox = self.pull(address="inproc://here")
        self.already_there(1)
        await inbox.until_count(1)
        self.assertEqual(inbox.hosts, {None})

    def cannot_be_bound(self, address: str, why: str) -> None:
        error = self.assertRaises(UsageError, self.pull, address=address)
        self.assertEqual(str(error), f"{address} cannot be bound: {why}")
        self.assertEqual(self.factory.connections, set())

    async def test_an_address_in_use_cannot_be_bound(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.cannot_be_bound(f"tcp://127.0.0.1:{taken.getsockname()[1]}", "address already in use")

    async def test_an_address_of_another_machine_cannot_be_bound(self) -> None:
        self.cannot_be_bound("tcp://192.0.2.1:4444", os.strerror(errno.EADDRNOTAVAIL).lower())

    async def test_what_is_no_address_cannot_be_bound(self) -> None:
        self.cannot_be_bound("nonsense", "invalid argument")

    async def test_an_address_can_be_bound_again_once_the_pull_is_closed(self) -> None:
        pull, _ = self.pull()
        pull.close()
        plain = plain_socket(zmq.PULL)
        self.addCleanup(deferToThread, close_plain, plain)
        await deferToThread(bind_again, plain, pull.address)


def sends(data: bytes, *, hang_up: bool = False) -> type[Protocol]:
    """A protocol that is no ZMTP."""

    class Other(Protocol):
        def connectionMade(self) -> None:
            self.transport.write(data)
            if hang_up:
                self.transport.loseConnection()

    return Other


class ConnectionTests(SocketTestCase):
    """What a listener hears of its connection."""

    REFUSED = "failed: connection refused, or no way there"
    NOT_ZEROMQ = "failed: connected, but the other side does not speak ZeroMQ"

    async def hears(self, address: str, *heard: str) -> None:
        _, recorder = self.push(address)
        await recorder.until_heard(heard[-1].split(":")[0])
        self.assertEqual(recorder.heard, [*heard])

    async def test_a_refused_connection_has_failed(self) -> None:
        with socket.socket() as nobody:
            nobody.bind(("127.0.0.1", 0))
            await self.hears(f"tcp://127.0.0.1:{nobody.getsockname()[1]}", self.REFUSED)

    async def test_a_peer_that_sends_garbage_is_no_zeromq(self) -> None:
        await self.hears(self.server(sends(b"\xff" * 200)), self.NOT_ZEROMQ)

    async def test_a_peer_that_sends_zeros_is_no_zeromq(self) -> None:
        await self.hears(self.server(sends(bytes(200))), self.NOT_ZEROMQ)

    async def test_a_web_server_that_answers_and_hangs_up_is_no_zeromq(self) -> None:
        await self.hears(self.server(sends(b"HTTP/1.1 400 Bad Request\r\n\r\n", hang_up=True)), self.NOT_ZEROMQ)

    async def test_a_peer_that_hangs_up_at_once_is_no_zeromq(self) -> None:
        await self.hears(self.server(sends(b"", hang_up=True)), self.NOT_ZEROMQ)

    async def test_a_socket_of_another_kind_has_failed(self) -> None:
        plain = plain_socket(zmq.PUB)
        self.addCleanup(deferToThread, close_plain, plain)
        await self.hears(f"tcp://127.0.0.1:{plain.bind_to_random_port('tcp://127.0.0.1')}", self.NOT_ZEROMQ)

    async def test_a_peer_that_is_closed_is_disconnected(self) -> None:
        pull, _ = self.pull()
        _, recorder = await self.connected(pull.address)
        pull.close()
        await recorder.until_heard("disconnected")
        self.assertEqual(recorder.heard, ["connected", "disconnected"])

    async def test_a_process_that_is_killed_is_disconnected(self) -> None:
        process, address = self.idle_peer()
        _, recorder = await self.connected(address)
        process.kill()
        await recorder.until_heard("disconnected")

    async def test_after_closing_nothing_is_heard(self) -> None:
        pull, _ = self.pull()
        push, recorder = await self.connected(pull.address)
        _other, other_recorder = await self.connected(pull.address)
        push.close()
        pull.close()
        await other_recorder.until_heard("disconnected")
        self.assertEqual(recorder.heard, ["connected"])


class HeartbeatTests(SocketTestCase):
    """A process that is stopped, and one whose Python is at a halt while its ZeroMQ lives."""

    timeout = 90

    async def test_a_frozen_peer_is_disconnected(self) -> None:
        process, address = self.idle_peer()
        _, recorder = await self.connected(address, heartbeats=True)
        process.send_signal(signal.SIGSTOP)
        await recorder.until_heard("disconnected")

    async def test_a_frozen_peer_goes_unnoticed_without_heartbeats(self) -> None:
        process, address = self.idle_peer()
        _, with_heartbeats = await self.connected(address, heartbeats=True)
        _, without = await self.connected(address)
        process.send_signal(signal.SIGSTOP)
        await with_heartbeats.until_heard("disconnected")
        self.assertEqual(without.heard, ["connected"])

    async def test_a_peer_that_is_merely_busy_stays_connected_longer_than_a_frozen_one(self) -> None:
        _, busy_address = self.idle_peer()
        frozen, frozen_address = self.idle_peer()
        _, busy_recorder = await self.connected(busy_address, heartbeats=True)
        for _ in range(2):
            _, frozen_recorder = await self.connected(frozen_address, heartbeats=True)
            frozen.send_signal(signal.SIGSTOP)
            await frozen_recorder.until_heard("disconnected")
            frozen.send_signal(signal.SIGCONT)
        self.assertEqual(busy_recorder.heard, ["connected"])


class ClosingTests(SocketTestCase):
    """Closing is harmless wherever and however often it is done. (That nothing stays in the reactor, trial sees.)"""

    async def test_a_pull_is_closed_twice(self) -> None:
        pull, _ = self.pull()
        pull.close()
        pull.close()
        pull.drain(1)

    async def test_a_push_is_closed_twice(self) -> None:
        pull, _ = self.pull()
        push, _ = await self.connected(pull.address)
        push.close()
        push.close(LINGER_MS)

    async def test_a_pull_is_closed_by_what_it_received(self) -> None:
        pull, inbox = self.pull(lambda frames: pull.close(), address="inproc://here")
        self.already_there(10)
        await inbox.until_count(1)
        await deferLater(reactor, 0.01)
        self.assertEqual(inbox.messages, numbers(1))
        self.assertEqual(self.factory.connections, set())

    async def test_a_pull_is_closed_by_what_it_received_while_it_is_drained(self) -> None:
        pull, inbox = self.pull(lambda frames: pull.close(), address="inproc://here")
        self.already_there(10)
        pull.drain(1)
        self.assertEqual(inbox.messages, numbers(1))

    async def test_a_pull_is_drained_by_what_it_received(self) -> None:
        pull, inbox = self.pull(lambda frames: pull.drain(30), address="inproc://here")
        self.already_there(100)
        await inbox.until_count(100)
        self.assertEqual(inbox.messages, numbers(100))

    async def closed_when(self, word: str, address: str, *, then: Act = lambda: None) -> None:
        push, recorder = self.push(address, acts={word: lambda: push.close()})
        await recorder.until_heard("connected" if word == "disconnected" else word)
        then()
        await recorder.until_heard(word)
        await deferLater(reactor, 0.01)
        self.assertEqual(recorder.heard[-1].split(":")[0], word)
        self.assertFalse([other for other in self.factory.connections if not isinstance(other, Pull)])

    async def test_a_push_is_closed_when_it_is_connected(self) -> None:
        pull, _ = self.pull()
        await self.closed_when("connected", pull.address)

    async def test_a_push_is_closed_when_it_is_disconnected(self) -> None:
        pull, _ = self.pull()
        await self.closed_when("disconnected", pull.address, then=pull.close)

    async def test_a_push_is_closed_when_it_has_failed(self) -> None:
        await self.closed_when("failed", self.server(sends(b"", hang_up=True)))

    async def test_a_push_is_closed_when_it_is_writable(self) -> None:
        plain, address = self.plain_pull(high_water_mark=10)
        push, recorder = await self.connected(address, high_water_mark=10, acts={"writable": lambda: push.close()})
        while push.push([KB_100]):
            pass

        def read() -> None:
            while recorder.heard == ["connected"]:
                if plain.poll(50):
                    plain.recv()

        reading = deferToThread(read)
        await recorder.until_heard("writable")
        await reading
        self.assertEqual(self.factory.connections, set())

    async def test_what_is_sent_before_closing_arrives(self) -> None:
        pull, inbox = self.pull()
        push, _ = await self.connected(pull.address)
        for number in range(50):
            self.assertTrue(push.push([b"%d" % number, KB_100]))
        push.close(LINGER_MS)
        await inbox.until_count(50)
        self.assertEqual([frames[0] for frames in inbox.messages], [b"%d" % number for number in range(50)])

    async def test_a_factory_is_closed_once_what_lingers_has_gone_out(self) -> None:
        plain, address = self.plain_pull(high_water_mark=10)
        factory = Factory(reactor)
        recorder = Recorder(reactor)
        push = Push(factory, address, recorder)
        await recorder.until_heard("connected")
        for number in range(100):
            self.assertTrue(push.push([b"%d" % number, KB_100]))
        push.close(60_000)
        closed = Happenings(reactor)
        closing = factory.close().addCallback(lambda _: closed.happened())
        await deferLater(reactor, 0.1)
        self.assertNoResult(closing)
        received = await deferToThread(lambda: [plain.recv_multipart()[0] for _ in range(100)])
        self.assertEqual(received, [b"%d" % number for number in range(100)])
        await closing

    async def test_a_factory_closes_all_that_is_open(self) -> None:
        factory = Factory(reactor)
        pull = Pull(factory, LOOPBACK, Inbox(reactor))
        recorder = Recorder(reactor)
        Push(factory, pull.address, recorder, heartbeats=True)
        Push(factory, "tcp://127.0.0.1:1", Recorder(reactor))
        await recorder.until_heard("connected")
        await factory.close()
        self.assertEqual(factory.connections, set())


class StrangerTests(SocketTestCase):
    """Connections that come, say what they like, and go."""

    def strangers(self, address: str, count: int) -> None:
        port = int(address.rpartition(":")[2])
        openings = [
            b"",
            b"\xff",
            b"GET / HTTP/1.1\r\n\r\n",
            b"\xff" * 100,
            FakePull.GREETING,
            FakePull.GREETING + bytes(9),
        ]
        for start in range(0, count, 50):
            crowd = [socket.create_connection(("127.0.0.1", port), 30) for _ in range(50)]
            crowd[-1].recv(1)  # libzmq has accepted it, and so all before: else its queue overflows, and TCP waits
            for number, stranger in enumerate(crowd, start):
                stranger.sendall(openings[number % len(openings)])
            for stranger in crowd:
                stranger.close()

    async def test_two_thousand_strangers_do_not_stop_a_healthy_connection(self) -> None:
        pull, inbox = self.pull()
        healthy = self.plain_push(pull.address)
        healthy.send(b"before")
        await inbox.until_count(1)
        await deferToThread(self.strangers, pull.address, 2000)
        healthy.send(b"after")
        await inbox.until_count(2)
        self.plain_push(pull.address).send(b"from a new one")
        await inbox.until_count(3)
        self.assertEqual(inbox.messages, [[b"before"], [b"after"], [b"from a new one"]])
