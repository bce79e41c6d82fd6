"""A link: how it connects, what its owner and its log are told, and that it leaves nothing behind.

That nothing is left in the reactor at the end of a test, trial sees: no delayed call, no reader.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import zmq
from twisted.internet import reactor
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory as ProtocolFactory
from twisted.internet.protocol import Protocol
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from tests.zmq_kit import Act, FakePull, Happenings, Inbox, LogTestCase, Names, close_plain, plain_socket
from zpipeline import link as link_module
from zpipeline.link import Link, State
from zpipeline.sockets import HEARTBEAT_MS, HIGH_WATER_MARK, LINGER_MS, Factory, Pull, Push

REFUSED = "connection refused, or no way there"


class Reactor:
    """The reactor, with a resolver of the test's own.

    :ivar delays: the seconds of each call later, where they are no deadline.
    """

    def __init__(self) -> None:
        self.nameResolver = Names([IPv4Address("TCP", "127.0.0.1", 0)])
        self.delays: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(reactor, name)

    def callLater(self, delay: float, *args: Any, **kwargs: Any) -> Any:
        if 0 < delay < link_module.DEADLINE:
            self.delays.append(delay)
        return reactor.callLater(delay, *args, **kwargs)


class Owner(Happenings):
    """Writes down what it hears.

    :ivar heard: "opened", "connected", "lost", "writable", in order.
    :ivar acts: what it does on hearing one of these.
    """

    def __init__(self, **acts: Callable[[Link], object]) -> None:
        super().__init__(reactor)
        self.heard: list[str] = []
        self.acts = acts

    def link_opened(self, link: Link) -> None:
        self._hears("opened", link)

    def link_connected(self, link: Link) -> None:
        self._hears("connected", link)

    def link_lost(self, link: Link) -> None:
        self._hears("lost", link)

    def link_writable(self, link: Link) -> None:
        self._hears("writable", link)

    def until_heard(self, word: str, times: int = 1) -> Deferred[None]:
        """Fires once it has heard that so many times."""
        return self.until(lambda: self.heard.count(word) >= times)

    def _hears(self, word: str, link: Link) -> None:
        self.heard.append(word)
        self.happened()
        self.acts.get(word, lambda link: None)(link)


class LinkTestCase(LogTestCase):
    """Links on a factory; backoffs are short."""

    timeout = 60

    def setUp(self) -> None:
        super().setUp()
        self.patch(link_module, "FIRST_BACKOFF", 0.01)
        self.patch(link_module, "LONGEST_BACKOFF", 0.08)
        self.reactor = Reactor()
        self.names = self.reactor.nameResolver
        self.factory = Factory(reactor)
        self.addCleanup(self.factory.close)

    def link(self, address: str, owner: Owner | None = None, **options: Any) -> tuple[Link, Owner]:
        """A link that was started, and its owner."""
        owner = owner or Owner()
        link = Link(self.reactor, self.factory, address, owner, **options)
        self.addCleanup(link.stop, 0)
        link.start()
        return link, owner

    def pull(self, address: str = "tcp://127.0.0.1:*") -> tuple[Pull, Inbox]:
        """A Pull, and its inbox."""
        inbox = Inbox(reactor)
        return Pull(self.factory, address, inbox), inbox

    def server(self, protocol: type[Protocol]) -> tuple[str, list[Any]]:
        """The address of a TCP server, and where a `FakePull` keeps its connections."""
        factory = ProtocolFactory.forProtocol(protocol)
        factory.connections = []
        port = reactor.listenTCP(0, factory, interface="127.0.0.1")
        self.addCleanup(port.stopListening)
        return f"tcp://127.0.0.1:{port.getHost().port}", factory.connections

    def nobody(self) -> str:
        """An address where nobody listens, and nobody else can until `taken` is closed."""
        self.taken = socket.socket()
        self.addCleanup(self.taken.close)
        self.taken.bind(("127.0.0.1", 0))
        return f"tcp://127.0.0.1:{self.taken.getsockname()[1]}"

    @property
    def pushes(self) -> list[Push]:
        """The sockets that are open, but for Pulls and what watches Pushes."""
        return [connection for connection in self.factory.connections if isinstance(connection, Push)]

    @property
    def warnings(self) -> list[str]:
        return self.lines("zpipeline.link")


class Silent(Protocol):
    """Accepts, and never says a word."""


class ConnectTests(LinkTestCase):
    """The good way."""

    async def test_a_link_opens_and_connects(self) -> None:
        pull, _ = self.pull()
        link, owner = self.link(pull.address)
        self.assertEqual((link.state, owner.heard), (State.CONNECTING, ["opened"]))
        await owner.until_heard("connected")
        self.assertEqual((link.state, owner.heard), (State.CONNECTED, ["opened", "connected"]))
        self.assertEqual(self.warnings, [])

    async def test_what_is_sent_when_it_opens_goes_out_first(self) -> None:
        pull, inbox = self.pull()
        hello = Owner(opened=lambda link: link.send([b"hello", b"you"]), connected=lambda link: link.send([b"work"]))
        self.link(pull.address, hello)
        await inbox.until_count(2)
        self.assertEqual(inbox.messages, [[b"hello", b"you"], [b"work"]])

    async def test_without_a_socket_nothing_is_sent(self) -> None:
        self.names.held = True
        link, _ = self.link("tcp://pool:4444")
        self.assertFalse(link.send([b"x"]))

    async def test_a_host_name_is_resolved_for_each_try(self) -> None:
        pull, _ = self.pull()
        link, owner = self.link(f"tcp://pool:{pull.address.rpartition(':')[2]}")
        await owner.until_heard("connected")
        link.give_up("for the test")
        await owner.until_heard("connected", 2)
        self.assertEqual(self.names.asked, ["pool", "pool"])

    async def test_its_addresses_are_tried_in_turn(self) -> None:
        self.names.found = [IPv4Address("TCP", host, 0) for host in ("127.0.0.7", "127.0.0.8", "127.0.0.1")]
        pull, _ = self.pull()
        port = pull.address.rpartition(":")[2]
        peers: list[tuple[str, str] | None] = []
        link, owner = self.link(f"tcp://pool:{port}", Owner(opened=lambda link: peers.append(link.peer)))
        await owner.until_heard("connected")
        self.assertEqual(owner.heard, ["opened", "lost"] * 2 + ["opened", "connected"])
        self.assertEqual(peers, [(host, port) for host in ("127.0.0.7", "127.0.0.8", "127.0.0.1")])
        self.assertEqual(link.peer, peers[-1])

    async def test_its_options_are_its_sockets(self) -> None:
        self.link(self.nobody(), heartbeats=True, high_water_mark=7)
        (push,) = self.pushes
        self.assertEqual((push.socket.get(zmq.SNDHWM), push.socket.get(zmq.HEARTBEAT_IVL)), (7, HEARTBEAT_MS))

    async def test_without_options_it_has_no_heartbeats_and_the_usual_mark(self) -> None:
        self.link(self.nobody())
        (push,) = self.pushes
        self.assertEqual((push.socket.get(zmq.SNDHWM), push.socket.get(zmq.HEARTBEAT_IVL)), (HIGH_WATER_MARK, 0))

    async def test_its_owner_hears_when_it_takes_messages_again(self) -> None:
        plain = plain_socket(zmq.PULL, high_water_mark=10)
        self.addCleanup(deferToThread, close_plain, plain)
        port = plain.bind_to_random_port("tcp://127.0.0.1")
        link, owner = self.link(f"tcp://127.0.0.1:{port}", high_water_mark=10)
        await owner.until_heard("connected")
        sent = 0
        while link.send([bytes(100_000)]):
            sent += 1
        received = deferToThread(lambda: [plain.recv() for _ in range(sent)])
        await owner.until_heard("writable")
        await received


class TroubleTests(LinkTestCase):
    """Each trouble ends in another try, and in one line of the log."""

    async def test_a_refused_connection_is_tried_until_someone_listens(self) -> None:
        address = self.nobody()
        _, owner = self.link(address)
        await owner.until_heard("lost", 4)
        self.assertEqual(self.warnings, [f"{address}: {REFUSED}; trying again"])
        self.taken.close()
        self.pull(address)
        await owner.until_heard("connected")
        self.assertEqual(owner.heard[-2:], ["opened", "connected"])

    async def test_tries_come_at_growing_intervals(self) -> None:
        _, owner = self.link(self.nobody())
        await owner.until_heard("lost", 6)
        for delay, full in zip(self.reactor.delays, (0.01, 0.02, 0.04, 0.08, 0.08), strict=False):
            self.assertTrue(full / 2 <= delay <= full, self.reactor.delays)

    async def test_a_connection_that_was_of_use_makes_the_next_interval_the_first_again(self) -> None:
        address, connections = self.server(FakePull)
        _, owner = self.link(address, Owner(connected=lambda link: link.meets_deadline()))
        for times in range(1, 6):
            await owner.until(lambda: len(connections) == times and owner.heard.count("connected") == times)  # noqa: B023
            connections[-1].cut()
        await owner.until_heard("lost", 5)
        self.assertLessEqual(max(self.reactor.delays), 0.01)

    async def test_a_connection_that_breaks_is_lost_once_and_made_again(self) -> None:
        address, connections = self.server(FakePull)
        link, owner = self.link(address)
        await owner.until_heard("connected")
        connections[0].cut()
        await owner.until_heard("lost")
        self.assertEqual(link.state, State.WAITING)
        await owner.until_heard("connected", 2)
        self.assertEqual(owner.heard, ["opened", "connected", "lost", "opened", "connected"])
        self.assertEqual(self.warnings, [f"{address}: disconnected; trying again"])

    async def test_a_peer_that_never_answers_meets_the_deadline(self) -> None:
        self.patch(link_module, "DEADLINE", 0.3)
        address, _ = self.server(Silent)
        _, owner = self.link(address)
        await owner.until_heard("lost", 3)
        (line,) = self.warnings
        self.assertIn(f"{address}: no answer", line)
        self.assertTrue(line.endswith("; trying again"))

    async def test_a_connection_of_no_use_meets_the_deadline_and_says_why_that_may_be(self) -> None:
        self.patch(link_module, "DEADLINE", 0.3)
        pull, _ = self.pull()
        _, owner = self.link(pull.address, silence="connected, but no word of its reports")
        await owner.until_heard("lost", 2)
        (line,) = self.warnings
        self.assertIn(f"{pull.address}: connected, but no word of its reports", line)

    async def test_a_connection_that_was_of_use_in_time_has_no_deadline(self) -> None:
        self.patch(link_module, "DEADLINE", 0.3)
        pull, _ = self.pull()
        silent, _ = self.server(Silent)
        _, useful = self.link(pull.address, Owner(connected=lambda link: link.meets_deadline()))
        await useful.until_heard("connected")
        _, useless = self.link(silent)  # its deadline is later
        await useless.until_heard("lost", 2)
        self.assertEqual(useful.heard, ["opened", "connected"])

    async def test_a_name_that_does_not_resolve_is_logged_once(self) -> None:
        self.names.found = []
        _, owner = self.link("tcp://no-such-host.invalid:4444")
        await owner.until_heard("lost", 4)
        self.assertEqual(
            self.warnings,
            ["tcp://no-such-host.invalid:4444: the host name 'no-such-host.invalid' does not resolve; trying again"],
        )
        self.assertEqual(owner.heard, ["lost"] * 4)

    async def test_a_name_that_dns_cannot_have_does_not_resolve(self) -> None:
        self.reactor.nameResolver = reactor.nameResolver
        _, owner = self.link("tcp://a..b:4444")
        await owner.until_heard("lost")
        self.assertEqual(self.warnings, ["tcp://a..b:4444: the host name 'a..b' does not resolve; trying again"])

    async def test_a_resolver_that_never_answers_meets_the_deadline(self) -> None:
        self.patch(link_module, "DEADLINE", 0.1)
        self.names.held = True
        _, owner = self.link("tcp://pool:4444")
        await owner.until_heard("lost", 3)
        (line,) = self.warnings
        self.assertIn("tcp://pool:4444: its host name is not resolved", line)

    async def test_an_answer_of_the_resolver_that_comes_too_late_opens_nothing(self) -> None:
        self.patch(link_module, "DEADLINE", 0.1)
        self.names.held = True
        link, owner = self.link("tcp://pool:1")
        await owner.until_heard("lost")
        await owner.until(lambda: link.state is State.WAITING)
        self.names.answer()
        self.assertEqual((owner.heard, self.pushes), (["lost"], []))

    async def test_an_answer_of_the_resolver_to_an_earlier_try_decides_nothing(self) -> None:
        self.patch(link_module, "DEADLINE", 0.1)
        self.names.held = True
        link, _ = self.link("tcp://pool:1")
        while not (len(self.names.receivers) > 1 and link.state is State.RESOLVING):
            await deferLater(reactor, 0.005)
        self.names.receivers[0].resolutionComplete()
        self.assertEqual(link.state, State.RESOLVING)

    async def test_a_trouble_of_another_kind_is_logged_and_so_is_the_same_after_a_success(self) -> None:
        address, _ = self.server(FakePull)
        link, owner = self.link(address, Owner(connected=lambda link: link.meets_deadline()))
        await owner.until_heard("connected")
        link.give_up("one")
        await owner.until_heard("connected", 2)
        link.give_up("one")
        await owner.until(lambda: link.state is not State.WAITING)
        link.give_up("two")
        await owner.until_heard("connected", 3)
        self.assertEqual(self.warnings, [f"{address}: {reason}; trying again" for reason in ("one", "one", "two")])

    async def test_giving_up_inside_of_being_told_of_a_loss_is_ignored(self) -> None:
        address = self.nobody()
        _, owner = self.link(address, Owner(lost=lambda link: link.give_up("again")))
        await owner.until_heard("lost", 3)
        self.assertEqual(owner.heard[:6], ["opened", "lost"] * 3)
        self.assertEqual(self.warnings, [f"{address}: {REFUSED}; trying again"])

    async def test_a_try_has_one_socket_and_leaves_none(self) -> None:
        _, owner = self.link(self.nobody(), Owner(opened=lambda link: self.assertEqual(len(self.pushes), 1)))
        await owner.until_heard("lost", 5)
        self.assertEqual(self.pushes, [])

    async def test_two_hundred_losses_later_it_still_connects(self) -> None:
        self.patch(link_module, "FIRST_BACKOFF", 0.001)
        address, connections = self.server(FakePull)

        def connected(link: Link) -> None:
            link.meets_deadline()
            if len(connections) <= 200:
                connections[-1].cut()

        link, owner = self.link(address, Owner(connected=connected))
        await owner.until_heard("connected", 201)
        self.assertEqual((owner.heard.count("lost"), link.state, len(self.pushes)), (200, State.CONNECTED, 1))
        self.assertEqual(
            set(pairwise(owner.heard)), {("opened", "connected"), ("connected", "lost"), ("lost", "opened")}
        )


class StopTests(LinkTestCase):
    """A link that is stopped has no socket and no delayed call, and tries nothing more, wherever it was."""

    def stopped(self, link: Link, owner: Owner) -> Deferred[None]:
        """Stop it, and see that nothing comes of it."""
        before = list(owner.heard)
        link.stop(0)
        link.stop(0)
        return self.is_over(link, owner, before)

    def is_over(self, link: Link, owner: Owner, before: list[str]) -> Deferred[None]:
        self.assertEqual((link.state, self.pushes), (State.STOPPED, []))
        self.assertFalse(link.send([b"x"]))
        self.assertEqual([call for call in reactor.getDelayedCalls() if _is_of(link, call)], [])
        link.give_up("it is stopped")
        return deferLater(reactor, 0.1).addCallback(lambda _: self.assertEqual(owner.heard, before))

    async def test_before_it_was_started(self) -> None:
        owner = Owner()
        await self.stopped(Link(self.reactor, self.factory, self.nobody(), owner), owner)

    async def test_while_its_name_is_resolved(self) -> None:
        self.names.held = True
        link, owner = self.link("tcp://pool:4444")
        self.assertEqual(link.state, State.RESOLVING)
        over = self.stopped(link, owner)
        self.names.answer()
        await over

    async def test_while_it_connects(self) -> None:
        address, _ = self.server(Silent)
        link, owner = self.link(address)
        self.assertEqual(link.state, State.CONNECTING)
        await self.stopped(link, owner)

    async def test_while_it_is_connected(self) -> None:
        pull, _ = self.pull()
        link, owner = self.link(pull.address)
        await owner.until_heard("connected")
        await self.stopped(link, owner)

    async def test_while_it_waits_for_the_next_try(self) -> None:
        link, owner = self.link(self.nobody())
        await owner.until_heard("lost")
        await owner.until(lambda: link.state is State.WAITING)
        await self.stopped(link, owner)

    async def stopped_on(self, word: str, address: str, then: Act = lambda: None) -> None:
        link, owner = self.link(address, Owner(**{word: lambda link: link.stop(0)}))
        if word == "lost":
            await owner.until(lambda: owner.heard != ["opened"])
            then()
        await owner.until_heard(word)
        await self.is_over(link, owner, list(owner.heard))
        self.assertEqual(owner.heard[-1], word)

    async def test_when_its_owner_hears_that_it_opens(self) -> None:
        await self.stopped_on("opened", self.nobody())

    async def test_when_its_owner_hears_that_it_is_connected(self) -> None:
        pull, _ = self.pull()
        await self.stopped_on("connected", pull.address)

    async def test_when_its_owner_hears_that_it_is_lost(self) -> None:
        pull, _ = self.pull()
        await self.stopped_on("lost", pull.address, then=pull.close)

    async def test_when_its_owner_hears_that_it_was_refused(self) -> None:
        await self.stopped_on("lost", self.nobody())

    async def test_what_it_holds_is_sent_all_the_same(self) -> None:
        pull, inbox = self.pull()
        link, owner = self.link(pull.address)
        await owner.until_heard("connected")
        for _ in range(50):
            self.assertTrue(link.send([bytes(100_000)]))
        link.stop(LINGER_MS)
        await inbox.until_count(50)


def _is_of(link: Link, call: Any) -> bool:
    return getattr(call.func, "__self__", None) is link
