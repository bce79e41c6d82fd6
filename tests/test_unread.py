"""What a PULL socket holds that is not read: real sockets, and peers that speak ZMTP by hand."""

from __future__ import annotations

import os
import resource
import sys
import threading
from typing import Any
from unittest import skipUnless

from twisted.internet import reactor
from twisted.internet.threads import deferToThread
from twisted.trial.unittest import TestCase

from tests.peers import a_while, until
from tests.zmq_kit import Inbox, RawPush, Recorder
from zpipeline import sockets, unread
from zpipeline.errors import ProtocolError
from zpipeline.sockets import Factory, Pull, Push

MOST = 1 << 20
PART = bytes(1 << 16)


@skipUnless(sys.platform == "linux", "only Linux counts what a connection has brought")
class UnreadTests(TestCase):
    timeout = 60

    def setUp(self) -> None:
        self.patch(unread, "TICK", 0.02)
        self.patch(unread, "LONGEST", 0.0)
        self.patch(unread, "MOST_UNREAD", MOST)
        self.patch(unread, "MOST_UNREAD_TOGETHER", 4 * MOST)
        self.factory = Factory(reactor)
        self.addCleanup(self.factory.close)
        self.inbox = Inbox(reactor)
        self.cut: list[tuple[str, str]] = []
        self.pull: Any = Pull(self.factory, "tcp://127.0.0.1:*", self.inbox, self.has_cut)

    def has_cut(self, error: ProtocolError, host: str) -> None:
        self.cut.append((str(error), host))

    async def peer(self) -> RawPush:
        """One that is known: a message of it has been read, and a look taken."""
        peer: RawPush = await deferToThread(RawPush, self.pull.address)
        self.addCleanup(peer.close)
        before = len(self.inbox.messages)
        peer.part(b"hello", is_last=True)
        await self.inbox.until_count(before + 1)
        await a_while(0.2)
        return peer

    async def sends(self, peer: RawPush, parts: int) -> None:
        """Parts of a message that has no end yet."""
        for _ in range(parts):
            await deferToThread(peer.part, PART)

    async def test_a_message_without_an_end_costs_its_sender_the_connection_and_nobody_else(self) -> None:
        bad, good = await self.peer(), await self.peer()
        with self.assertRaises(OSError):
            await self.sends(bad, 4000)
        await until(lambda: self.cut, "it is told")
        ((why, host),) = self.cut
        self.assertIn("that cannot be read: a message without an end", why)
        self.assertEqual(host, "127.0.0.1")
        await self.sends(good, 8)
        good.part(b"end", is_last=True)
        await until(lambda: self.inbox.messages[-1][-1] == b"end", "the other is heard")

    async def test_what_is_read_does_not_count(self) -> None:
        peer = await self.peer()
        for _ in range(10):
            await self.sends(peer, 10)
            peer.part(b"", is_last=True)
        await self.inbox.until_count(11)
        await a_while(0.3)
        self.assertEqual(self.cut, [])

    async def test_of_several_peers_that_hold_too_much_together_the_largest_goes(self) -> None:
        self.patch(unread, "MOST_UNREAD_TOGETHER", MOST)
        small, large = await self.peer(), await self.peer()
        await self.sends(small, 6)
        await a_while(0.3)
        self.assertEqual(self.cut, [])
        await self.sends(large, 12)
        await deferToThread(large.until_cut)
        small.part(b"end", is_last=True)
        await until(lambda: len(self.inbox.messages[-1]) == 7, "the small one is heard")
        self.assertEqual(len(self.cut), 1)

    async def test_what_waits_while_nothing_is_read_counts(self) -> None:
        peer = await self.peer()
        self.pull.hold(True)
        for _ in range(12):
            peer.part(PART, is_last=True)
        await a_while(0.3)
        self.assertEqual((self.cut, len(self.inbox.messages)), ([], 1))
        for _ in range(12):
            peer.part(PART, is_last=True)
        await until(lambda: self.cut, "it is cut off")

    async def test_what_waited_is_read_when_reading_goes_on(self) -> None:
        peer = await self.peer()
        self.pull.hold(True)
        for number in range(12):
            peer.part(b"%d" % number, is_last=True)
        await a_while(0.1)
        self.pull.hold(False)
        await self.inbox.until_count(13)
        self.assertEqual(self.inbox.messages[1:], [[b"%d" % number] for number in range(12)])

    async def test_heartbeats_do_not_count(self) -> None:
        self.patch(unread, "MOST_UNREAD", 30)
        self.patch(sockets, "HEARTBEAT_MS", 200)
        recorder = Recorder(reactor)
        Push(self.factory, self.pull.address, recorder, heartbeats=True)
        await recorder.until_heard("connected")
        await a_while(2.0)
        self.assertEqual(self.cut, [])

    async def test_it_needs_no_descriptor_that_is_not_there_already(self) -> None:
        bad = await self.peer()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            self.assertRaises(OSError, os.listdir, "/proc/self/fd")
            await a_while(0.2)
            with self.assertRaises(OSError):
                await self.sends(bad, 4000)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        await until(lambda: self.cut, "it is told")

    async def test_a_socket_that_was_closed_is_not_looked_at(self) -> None:
        before = threading.active_count()
        self.pull.close()
        await until(lambda: threading.active_count() < before, "its thread ends")
