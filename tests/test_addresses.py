"""Addresses: what is one, and what is said of what is none."""

from __future__ import annotations

from twisted.internet import reactor
from twisted.trial.unittest import TestCase

from zpipeline.addresses import make_address, parse_address, resolve
from zpipeline.errors import UsageError


class ParseTests(TestCase):
    """parse_address and make_address."""

    def test_names_and_numbers_and_brackets(self) -> None:
        for address, parts in {
            "tcp://127.0.0.1:4444": ("127.0.0.1", "4444"),
            "tcp://worker-1.example:1": ("worker-1.example", "1"),
            "tcp://[::1]:65535": ("::1", "65535"),
        }.items():
            self.assertEqual(parse_address(address), parts)
            self.assertEqual(make_address(*parts), address)

    def test_wildcards_are_for_binding_only(self) -> None:
        for address in ("tcp://*:4444", "tcp://0.0.0.0:4444", "tcp://[::]:4444", "tcp://127.0.0.1:*"):
            parse_address(address, bound=True)
            error = self.assertRaises(UsageError, parse_address, address)
            self.assertIn("name a host and a port", str(error))

    def test_what_is_no_address_is_named(self) -> None:
        for address in (
            "",
            "4444",
            "localhost:4444",
            "udp://h:1",
            "tcp://h",
            "tcp://h:",
            "tcp://h:x",
            "tcp://::1:4",
            "tcp://a b:1",
        ):
            error = self.assertRaises(UsageError, parse_address, address)
            self.assertIn(repr(address), str(error))

    def test_ports_have_a_range(self) -> None:
        for port in ("0", "65536", "99999"):
            self.assertIn("from 1 to 65535", str(self.assertRaises(UsageError, parse_address, f"tcp://h:{port}")))


class ResolveTests(TestCase):
    """resolve."""

    async def test_an_ip_address_is_itself(self) -> None:
        self.assertEqual(await resolve(reactor.nameResolver, "127.0.0.1"), ["127.0.0.1"])
        self.assertEqual(await resolve(reactor.nameResolver, "::1"), ["::1"])

    async def test_a_name_has_addresses_each_once(self) -> None:
        hosts = await resolve(reactor.nameResolver, "localhost")
        self.assertIn("127.0.0.1", hosts)
        self.assertEqual(len(hosts), len(set(hosts)))

    async def test_a_name_that_does_not_resolve_has_none(self) -> None:
        self.assertEqual(await resolve(reactor.nameResolver, "no-such-host.invalid"), [])
