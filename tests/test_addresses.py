"""Addresses: what is one, and what a host resolves to."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.address import IPv4Address, IPv6Address, UNIXAddress
from twisted.trial.unittest import SynchronousTestCase, TestCase

from tests.zmq_kit import Names
from zpipeline.addresses import WILDCARDS, make_address, parse_address, resolve
from zpipeline.errors import UsageError

thorough = settings(max_examples=200, deadline=None, database=None)

ports = st.integers(1, 65535).map(str)
names = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,20}[a-z0-9_])?(\.[a-z]{2,8}){0,3}", fullmatch=True)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)


class ParseTests(SynchronousTestCase):
    """tcp://HOST:PORT and nothing else."""

    @thorough
    @given(names | ipv4 | ipv6, ports)
    def test_what_is_made_of_a_host_and_a_port_parses_to_them(self, host: str, port: str) -> None:
        self.assertEqual(parse_address(make_address(host, port), bound=True), (host, port))

    @thorough
    @given(st.text() | st.text("tcp:/[]*.19a%\n -", max_size=20).map("tcp://{}".format))
    @example("tcp://[a]:1")
    def test_any_other_text_is_refused_and_named(self, text: str) -> None:
        try:
            host, port = parse_address(text, bound=True)
        except UsageError as error:
            self.assertIn(repr(text), str(error))
        else:
            self.assertIn(text, (f"tcp://{host}:{port}", f"tcp://[{host}]:{port}"))

    def test_a_number_for_a_port_will_do(self) -> None:
        self.assertEqual(make_address("::1", 4444), "tcp://[::1]:4444")
        self.assertEqual(make_address("localhost", 4444), "tcp://localhost:4444")

    def test_what_is_no_address_is_refused_with_an_example(self) -> None:
        for text in (
            "",
            "4444",
            "127.0.0.1:4444",
            "tcp://127.0.0.1",
            "tcp://127.0.0.1:",
            "tcp://:4444",
            "tcp://::1:4444",
            "tcp://[::1:4444",
            "tcp://[]:4444",
            "tcp://a b:4444",
            "tcp://localhost:4444/",
            "tcp://localhost:4444\n",
            "tcp://localhost:-1",
            "tcp://localhost:123456",
            "tcp://localhost:\u0664\u0664",
            "udp://localhost:4444",
            "ipc:///tmp/x",
            " tcp://localhost:4444",
            "TCP://localhost:4444",
        ):
            error = self.assertRaises(UsageError, parse_address, text, bound=True)
            self.assertEqual(str(error), f"{text!r} is not tcp://HOST:PORT, such as tcp://127.0.0.1:4444")

    def test_a_port_is_from_1_to_65535(self) -> None:
        for port in ("0", "00000", "65536", "99999"):
            error = self.assertRaises(UsageError, parse_address, f"tcp://localhost:{port}", bound=True)
            self.assertEqual(str(error), f"'tcp://localhost:{port}': a port is from 1 to 65535")

    def test_to_bind_any_host_and_any_port_may_be_left_open(self) -> None:
        for host in WILDCARDS:
            self.assertEqual(parse_address(make_address(host, "*"), bound=True), (host, "*"))

    def test_to_connect_host_and_port_are_named(self) -> None:
        for host, port in [*((host, "4444") for host in WILDCARDS), ("127.0.0.1", "*")]:
            address = make_address(host, port)
            error = self.assertRaises(UsageError, parse_address, address)
            self.assertEqual(str(error), f"{address!r}: to connect, name a host and a port")


class ResolveTests(TestCase):
    """The IP addresses of a host."""

    timeout = 60

    def resolved(self, host: str, *found: Any) -> tuple[list[str], list[str]]:
        """What it resolves to where a resolver finds that, and what the resolver was asked."""
        resolver = Names(found)
        return self.successResultOf(resolve(resolver, host)), resolver.asked

    def test_an_ip_address_is_its_own_and_no_resolver_is_asked(self) -> None:
        for host in ("127.0.0.1", "::1", "fe80::1", "::ffff:127.0.0.1"):
            self.assertEqual(self.resolved(host), ([host], []))

    def test_a_name_has_the_addresses_that_the_resolver_finds_in_its_order_each_once(self) -> None:
        found = [
            IPv6Address("TCP", "::2", 0),
            IPv4Address("TCP", "127.0.0.9", 0),
            IPv4Address("UDP", "127.0.0.9", 0),
            IPv4Address("TCP", "127.0.0.1", 0),
        ]
        self.assertEqual(self.resolved("pool", *found), (["::2", "127.0.0.9", "127.0.0.1"], ["pool"]))

    def test_addresses_of_another_kind_are_left_out(self) -> None:
        self.assertEqual(self.resolved("pool", UNIXAddress("/tmp/pool")), ([], ["pool"]))

    def test_a_name_that_nothing_is_found_for_has_none(self) -> None:
        self.assertEqual(self.resolved("nowhere"), ([], ["nowhere"]))

    async def test_the_reactors_own_resolver_knows_this_machine(self) -> None:
        hosts = await resolve(reactor.nameResolver, "localhost")
        self.assertIn(hosts[0], ("127.0.0.1", "::1"))

    async def test_what_cannot_be_a_name_has_none_and_leaves_no_error(self) -> None:
        for host in ("a" * 64, "a..b", ".", "\udc80"):
            self.assertEqual(await resolve(reactor.nameResolver, host), [])
