"""An inquest into the process behind an address: real sockets."""

from __future__ import annotations

import socket
from typing import Any

from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol
from twisted.trial import unittest

from tests.peers import a_while, until
from zpipeline import inquest
from zpipeline.inquest import Inquest

LONG = 60.0  # seconds: so long nothing here takes


class Accepting(Protocol):
    """One that stays."""

    def connectionMade(self) -> None:
        self.factory.connections.append(self)  # type: ignore[union-attr]

    def connectionLost(self, reason: object = None) -> None:
        self.factory.lost += 1  # type: ignore[union-attr]


class Closing(Accepting):
    """One that closes each connection."""

    def connectionMade(self) -> None:
        super().connectionMade()
        assert self.transport is not None
        self.transport.loseConnection()


class InquestTests(unittest.TestCase):
    """That a closed inquest leaves no connection and no delayed call, trial sees."""

    timeout = 120

    def hold(self, peer: tuple[str, str]) -> tuple[Inquest, Deferred[bool], list[bool]]:
        """An inquest; its verdict, and all that it has said."""
        verdict: Deferred[bool] = Deferred()
        said: list[bool] = []

        def hear(is_dead: bool) -> None:
            said.append(is_dead)
            if len(said) == 1:
                verdict.callback(is_dead)

        held = Inquest(reactor, peer, hear)
        self.addCleanup(held.close)
        return held, verdict, said

    def server(self, protocol: type[Accepting]) -> tuple[Any, Any, tuple[str, str]]:
        """A listening port, its factory, and its address."""
        factory: Any = Factory.forProtocol(protocol)
        factory.connections = []
        factory.lost = 0
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        self.addCleanup(self.all_lost, factory)
        return port, factory, ("127.0.0.1", str(port.getHost().port))

    async def all_lost(self, factory: Any) -> None:
        for connection in factory.connections:
            connection.transport.abortConnection()
        await until(lambda: factory.lost == len(factory.connections))

    def nobody(self) -> tuple[str, str]:
        """A port that is taken, and where nobody listens."""
        taken = socket.socket()
        self.addCleanup(taken.close)
        taken.bind(("127.0.0.1", 0))
        return "127.0.0.1", str(taken.getsockname()[1])

    async def test_a_port_that_refuses_is_proof_of_death(self) -> None:
        self.patch(inquest, "PATIENCE", LONG)
        _, verdict, said = self.hold(self.nobody())
        self.assertIs(await verdict, True)
        await a_while(0.1)
        self.assertEqual(said, [True], "it is said once")

    async def test_one_that_accepts_and_stays_may_be_alive(self) -> None:
        _, factory, peer = self.server(Accepting)
        began = reactor.seconds()
        _, verdict, said = self.hold(peer)
        self.assertIs(await verdict, False)
        self.assertGreaterEqual(reactor.seconds() - began, inquest.PATIENCE * 0.99)
        await until(lambda: factory.lost == 1, "its connection is closed")
        self.assertEqual((said, len(factory.connections)), ([False], 1))

    async def test_one_that_accepts_and_goes_then_is_dead(self) -> None:
        self.patch(inquest, "PATIENCE", LONG)
        port, factory, peer = self.server(Accepting)
        _, verdict, said = self.hold(peer)
        await until(lambda: factory.connections)
        self.assertEqual(said, [])
        await port.stopListening()
        factory.connections[0].transport.abortConnection()
        self.assertIs(await verdict, True)

    async def test_one_that_closes_each_connection_is_asked_again_and_may_be_alive(self) -> None:
        self.patch(inquest, "PATIENCE", 1.0)
        _, factory, peer = self.server(Closing)
        _, verdict, said = self.hold(peer)
        self.assertIs(await verdict, False)
        self.assertGreater(len(factory.connections), 1)
        self.assertEqual(said, [False])

    async def test_one_that_does_not_answer_may_be_alive(self) -> None:
        frozen = socket.socket()
        self.addCleanup(frozen.close)
        frozen.bind(("127.0.0.1", 0))
        frozen.listen(0)
        address = frozen.getsockname()
        waiting = [socket.socket() for _ in range(4)]  # its queue is full, and connections to it hang
        for other in waiting:
            self.addCleanup(other.close)
            other.setblocking(False)
            other.connect_ex(address)
        _, verdict, said = self.hold((address[0], str(address[1])))
        self.assertIs(await verdict, False)
        self.assertEqual(said, [False])

    async def test_when_it_is_closed_it_says_nothing(self) -> None:
        self.patch(inquest, "PATIENCE", 0.2)
        _, factory, peer = self.server(Accepting)
        connected, _, said_of_one = self.hold(peer)
        await until(lambda: factory.connections)
        connected.close()
        refused, _, said_of_other = self.hold(self.nobody())
        refused.close()
        refused.close()
        await a_while(0.4)
        self.assertEqual((said_of_one, said_of_other), ([], []))
        self.assertEqual(factory.lost, 1)

    async def test_closed_between_two_tries_it_tries_no_more(self) -> None:
        self.patch(inquest, "PATIENCE", LONG)
        self.patch(inquest, "INTERVAL", 0.1)
        _, factory, peer = self.server(Closing)
        held, _, said = self.hold(peer)
        await until(lambda: held._next is not None, "it waits for its next try")
        held.close()
        count = len(factory.connections)
        await a_while(0.3)
        self.assertEqual((len(factory.connections), said), (count, []))
