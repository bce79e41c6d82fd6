"""A run of everything that `zpipeline.sockets` does, on the reactor named: ``python -m tests.reactor_scenario epoll``.

Prints nothing and exits with 0 when all was as it should be; else what was not. Nothing wakes this
reactor but what the sockets do: a wake-up that is missed is never made up for.
"""

from __future__ import annotations

import faulthandler
import os
import sys
from typing import Any, NoReturn

import zmq
from twisted.application.reactors import installReactor
from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.threads import deferToThread
from twisted.logger import LogEvent, globalLogBeginner

from tests.zmq_kit import Inbox, Recorder, close_plain, plain_socket

DEADLINE = 90.0  # seconds; the bound of failure
MESSAGES = 20_000
PUSHES = 4
MIB = bytes(1 << 20)
BALLS = 1000


def a_message(pusher: int, number: int) -> list[bytes]:
    """The message of that number, among them some of several frames and some that are large."""
    head = b"%d:%d" % (pusher, number)
    if number % 500 == 7:
        return [head, MIB]
    return [head, b"", b"%d" % number] if number % 3 == 0 else [head]


async def everything_arrives_in_order(reactor: Any) -> None:
    """Many messages of several connections; each listener hears that it is connected, and that it is disconnected."""
    from zpipeline.sockets import Factory, Pull, Push

    factory = Factory(reactor)
    inbox = Inbox(reactor)
    pull = Pull(factory, "tcp://127.0.0.1:*", inbox)
    recorders = [Recorder(reactor) for _ in range(PUSHES)]
    pushes = [Push(factory, pull.address, recorder) for recorder in recorders]
    for recorder in recorders:
        await recorder.until_heard("connected")
    each = MESSAGES // PUSHES
    for start in range(0, each, 1000):  # a thousand at a time, so that sending and receiving are interleaved
        for pusher, push in enumerate(pushes):
            for number in range(start, start + 1000):
                assert push.push(a_message(pusher, number))
        await inbox.until_count(PUSHES * (start + 1000))
    for pusher in range(PUSHES):
        mine = [frames for frames in inbox.messages if frames[0].startswith(b"%d:" % pusher)]
        assert mine == [a_message(pusher, number) for number in range(each)]
    assert inbox.hosts == {"127.0.0.1"}
    pull.close()
    for recorder in recorders:
        await recorder.until_heard("disconnected")
        assert recorder.heard == ["connected", "disconnected"]
    await factory.close()


async def sending_and_receiving_alternate(reactor: Any) -> None:
    """Each message is sent from where the one before was received."""
    from zpipeline.sockets import Factory, Pull, Push

    factory = Factory(reactor)
    here, there = Inbox(reactor), Inbox(reactor)
    pulls = [Pull(factory, "tcp://127.0.0.1:*", inbox) for inbox in (here, there)]
    to_there, to_here = (Push(factory, pull.address, Recorder(reactor)) for pull in reversed(pulls))
    there.act = lambda frames: check(to_here.push(frames))
    here.act = lambda frames: check(len(here.messages) >= BALLS or to_there.push([b"%d" % len(here.messages)]))
    assert to_there.push([b"0"])
    await here.until_count(BALLS)
    assert here.messages == [[b"%d" % number] for number in range(BALLS)]
    await factory.close()


async def a_full_socket_says_when_it_takes_more(reactor: Any) -> None:
    """A peer that is not read, and then is."""
    from zpipeline.sockets import Factory, Push

    factory = Factory(reactor)
    peer = plain_socket(zmq.PULL, high_water_mark=10)
    port = peer.bind_to_random_port("tcp://127.0.0.1")
    recorder = Recorder(reactor)
    push = Push(factory, f"tcp://127.0.0.1:{port}", recorder, high_water_mark=10)
    await recorder.until_heard("connected")
    sent = 0
    while push.push([b"%d" % sent, MIB]):
        sent += 1
    assert recorder.heard == ["connected"]
    read = deferToThread(lambda: [peer.recv_multipart()[0] for _ in range(sent)])
    await recorder.until_heard("writable")
    assert await read == [b"%d" % number for number in range(sent)]
    assert push.push([b"more"])
    assert await deferToThread(peer.recv) == b"more"
    await factory.close()
    close_plain(peer)


async def nobody_there(reactor: Any) -> None:
    """Connection refused."""
    from zpipeline.sockets import Factory, Push

    factory = Factory(reactor)
    peer = plain_socket(zmq.PULL)
    port = peer.bind_to_random_port("tcp://127.0.0.1")
    await deferToThread(close_plain, peer)
    recorder = Recorder(reactor)
    Push(factory, f"tcp://127.0.0.1:{port}", recorder)
    await recorder.until_heard("failed")
    assert recorder.heard == ["failed: connection refused, or no way there"], recorder.heard
    await factory.close()


async def what_lingers_arrives(reactor: Any) -> None:
    """Closed right after sending, and the whole factory with it."""
    from zpipeline.sockets import LINGER_MS, Factory, Pull, Push

    receiving, sending = Factory(reactor), Factory(reactor)
    inbox = Inbox(reactor)
    pull = Pull(receiving, "tcp://127.0.0.1:*", inbox)
    recorder = Recorder(reactor)
    push = Push(sending, pull.address, recorder)
    await recorder.until_heard("connected")
    for number in range(20):
        assert push.push([b"%d" % number, MIB])
    push.close(LINGER_MS)
    await sending.close()
    await inbox.until_count(20)
    assert [frames[0] for frames in inbox.messages] == [b"%d" % number for number in range(20)]
    await receiving.close()


async def closing_may_come_at_any_time(reactor: Any) -> None:
    """Factories are closed while libzmq's thread has much to tell: all their connections break just then."""
    from zpipeline.sockets import Factory, Pull, Push

    for _ in range(25):
        factory = Factory(reactor)
        pull = Pull(factory, "tcp://127.0.0.1:*", Inbox(reactor))
        recorders = [Recorder(reactor) for _ in range(50)]
        for recorder in recorders:
            Push(factory, pull.address, recorder)
        for recorder in recorders:
            await recorder.until_heard("connected")
        pull.close()
        await factory.close()


def check(holds: object) -> None:
    """An assert where only an expression will do."""
    assert holds


async def run(reactor: Any) -> None:
    """One after the other."""
    await everything_arrives_in_order(reactor)
    await sending_and_receiving_alternate(reactor)
    await a_full_socket_says_when_it_takes_more(reactor)
    await nobody_there(reactor)
    await what_lingers_arrives(reactor)
    await closing_may_come_at_any_time(reactor)
    assert reactor.removeAll() == [], "a socket was left in the reactor"


def die(text: str) -> NoReturn:
    """End here and now, whatever threads still wait for."""
    print(text, file=sys.stderr, flush=True)
    os._exit(1)


def observe(event: LogEvent) -> None:
    """No error may be logged."""
    if "log_failure" in event:
        die(event["log_failure"].getTraceback())


def main(name: str) -> None:
    """Run it on the reactor of that name."""
    installReactor(name)
    from twisted.internet import reactor as installed

    reactor: Any = installed
    globalLogBeginner.beginLoggingTo([observe], redirectStandardIO=False, discardBuffer=True)

    def begin() -> None:
        done: Deferred[None] = ensureDeferred(run(reactor))
        done.addCallbacks(lambda _: reactor.stop(), lambda failure: die(failure.getTraceback()))

    faulthandler.dump_traceback_later(DEADLINE, exit=True)  # from a thread: the reactor's own may be what hangs
    reactor.callWhenRunning(begin)
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1])
