"""A link finds the other side, whenever it comes, and says once what is in its way."""

from __future__ import annotations

import socket

import zmq
from twisted.internet import reactor

from tests.peers import ANY_PORT, Case, until
from zpipeline import link as link_module
from zpipeline.link import Link, State
from zpipeline.sockets import Factory, Pull


class Owner:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.heard: list[str] = []
        self.on_lost = lambda link: None

    def link_opened(self, link: Link) -> None:
        self.heard.append("opened")

    def link_connected(self, link: Link) -> None:
        self.heard.append("connected")
        link.meets_deadline()

    def link_lost(self, link: Link) -> None:
        self.heard.append("lost")
        self.on_lost(link)

    def link_writable(self, link: Link) -> None:
        self.heard.append("writable")


class LinkTests(Case):
    """With real sockets."""

    def setUp(self) -> None:
        super().setUp()
        self.factory = Factory(reactor)
        self.addCleanup(self.factory.close)
        self.owner = Owner()

    def link(self, address: str) -> Link:
        link = Link(reactor, self.factory, address, self.owner)
        self.addCleanup(link.stop, 0)
        link.start()
        return link

    def free_address(self) -> str:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return f"tcp://127.0.0.1:{probe.getsockname()[1]}"

    def warnings(self, address: str) -> list[str]:
        return [line for line in self.logged if line.startswith(address)]

    async def test_it_tries_until_somebody_listens_and_says_once_that_nobody_did(self) -> None:
        address = self.free_address()
        self.link(address)
        await until(lambda: self.owner.heard.count("lost") >= 3)
        self.assertEqual(len(self.warnings(address)), 1)
        self.assertIn("refused", self.warnings(address)[0])
        got: list[list[bytes]] = []
        Pull(self.factory, address, lambda frames, host: got.append(frames))
        await until(lambda: self.owner.heard[-1] == "connected")

    async def test_what_it_sends_arrives_and_a_new_connection_replaces_a_lost_one(self) -> None:
        got: list[list[bytes]] = []
        pull = Pull(self.factory, ANY_PORT, lambda frames, host: got.append(frames))
        link = self.link(pull.address)
        await until(lambda: "connected" in self.owner.heard)
        self.assertTrue(link.send([b"first"]))
        await until(lambda: got)
        pull.close()
        await until(lambda: "lost" in self.owner.heard)
        self.assertFalse(link.send([b"nobody is there"]))
        Pull(self.factory, pull.address, lambda frames, host: got.append(frames))
        await until(lambda: self.owner.heard.count("connected") == 2)
        self.assertTrue(link.send([b"second"]))
        await until(lambda: len(got) == 2)
        self.assertEqual(got, [[b"first"], [b"second"]])

    async def test_one_that_accepts_and_never_answers_ends_at_the_deadline(self) -> None:
        self.patch(link_module, "DEADLINE", 0.3)
        with socket.create_server(("127.0.0.1", 0)) as silent:
            address = f"tcp://127.0.0.1:{silent.getsockname()[1]}"
            link = self.link(address)
            await until(lambda: self.owner.heard.count("lost") == 2)
            link.stop(0)
        self.assertEqual(len(self.warnings(address)), 1)
        self.assertIn("no answer", self.warnings(address)[0])

    async def test_a_host_name_that_does_not_resolve_is_said(self) -> None:
        self.link("tcp://no-such-host.invalid:4444")
        await until(lambda: "lost" in self.owner.heard)
        self.assertIn("does not resolve", self.warnings("tcp://no-such-host.invalid")[0])
        self.assertNotIn("opened", self.owner.heard)

    async def test_giving_up_while_it_is_lost_changes_nothing(self) -> None:
        self.owner.on_lost = lambda link: link.give_up("once more")
        address = self.free_address()
        link = self.link(address)
        await until(lambda: "lost" in self.owner.heard)
        self.assertEqual((self.owner.heard.count("lost"), link.state), (1, State.WAITING))
        self.assertEqual(len(self.warnings(address)), 1)

    async def test_stopped_by_its_owner_while_it_is_lost_it_tries_no_more(self) -> None:
        self.owner.on_lost = lambda link: link.stop(0)
        link = self.link(self.free_address())
        await until(lambda: "lost" in self.owner.heard)
        self.assertEqual(link.state, State.STOPPED)

    async def test_two_hundred_connections_one_after_the_other_leave_nothing_open(self) -> None:
        self.patch(link_module, "FIRST_BACKOFF", 0.001)
        pull = Pull(self.factory, ANY_PORT, lambda frames, host: None)
        link = self.link(pull.address)
        for number in range(1, 201):
            await until(lambda number=number: self.owner.heard.count("connected") == number)
            link.give_up("for a test")
        link.stop(0)
        self.assertEqual(self.factory.connections, {pull})
        self.assertGreater(self.factory.context.get(zmq.MAX_SOCKETS), 1023)
