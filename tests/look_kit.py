"""A server that says of itself what a test wants, as zpipe-web would."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Condition, Event, Thread
from typing import Any

NOTHING_MEASURED = {"p50": None, "p90": None, "p99": None}
MEASURED = {"p50": 0.0012, "p90": 0.0456, "p99": 1.5}

STATS: dict[str, Any] = {
    "version": "0.1.0",
    "host": "front",
    "pid": 4711,
    "time": 1_767_225_600.0,
    "uptime": 3725.5,
    "accepting": True,
    "draining": False,
    "trouble": None,
    "accepted": 1_234_567,
    "refused": {
        "full": 0,
        "draining": 0,
        "too_large": 0,
        "journal": 0,
        "journal_full": 0,
        "key_reused": 0,
        "keys_full": 0,
    },
    "done": 1_234_000,
    "dead": 7,
    "failed": 35,
    "redelivered": 12,
    "redeliveries": {"lost": 3, "returned": 1, "retry": 8},
    "bad_messages": 0,
    "pending": 560,
    "waiting": 501,
    "oldest_waiting": 123.4,
    "in_flight": 59,
    "dead_letters": 6,
    "ready_workers": 2,
    "rates": {"accepted": 1200.0, "settled": 1180.0},
    "latency": {"start": MEASURED, "run": MEASURED, "settle": NOTHING_MEASURED},
    "journal": None,
}


def worker(number: int, **changes: Any) -> dict[str, Any]:
    """A worker that is ready, or as the changes have it."""
    return {
        "address": f"tcp://127.0.0.1:{4444 + number}",
        "state": "ready",
        "why": None,
        "since": STATS["time"] - 90,
        "host": "back",
        "pid": 5000 + number,
        "version": "0.1.0",
        "handler": "photos:resize",
        "concurrency": 1,
        "window": 128,
        "in_flight": 30,
        "done": 411_333,
        "failed": 5,
        "returned": 0,
        "share": 1 / 3,
        "rate": 401.5,
        "latency": {"start": MEASURED, "run": MEASURED},
        **changes,
    }


def lost(number: int, why: str = "disconnected") -> dict[str, Any]:
    """A worker that was there."""
    return worker(number, state="lost", why=why, in_flight=0, share=0.0, rate=0.0)


def absent(number: int) -> dict[str, Any]:
    """A worker that has never been there."""
    unknown = dict.fromkeys(("host", "pid", "version", "handler", "concurrency", "window"))
    latency = {"start": NOTHING_MEASURED, "run": NOTHING_MEASURED}
    why = "connection refused, or no way there"
    return lost(number, why) | unknown | {"state": "connecting", "done": 0, "failed": 0, "latency": latency}


class FakeWeb:
    """Serves /stats, /workers and /events on a free port, with what it holds.

    :ivar stats: what ``GET /stats`` has.
    :ivar workers: what ``GET /workers`` has.
    :ivar answers: whole answers that take the place of those, by path: status, type and body.
    """

    def __init__(self, port: int = 0) -> None:
        self.stats = deepcopy(STATS)
        self.workers = [worker(0), worker(1), lost(2)]
        self.answers: dict[str, tuple[int, str, bytes]] = {}
        self._changed = Condition()
        self._may_answer = Event()
        self._may_answer.set()
        self._open = True
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                fake._may_answer.wait()
                if self.path in fake.answers:
                    self.answer(*fake.answers[self.path])
                elif self.path == "/events":
                    self.answer(200, "text/event-stream", b"retry: 2000\n\n")
                    fake._tell(self.wfile)
                else:
                    answer = {"/stats": fake.stats, "/workers": {"workers": fake.workers}}[self.path]
                    self.answer(200, "application/json", json.dumps(answer).encode())

            def answer(self, status: int, content_type: str, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", content_type)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *arguments: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Whoever asked has hung up."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self.port}"
        Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Answer nothing meanwhile."""
        self._may_answer.clear()
        try:
            yield
        finally:
            self._may_answer.set()

    def tell(self) -> None:
        """Send another snapshot to those who read /events."""
        with self._changed:
            self._changed.notify_all()

    def close(self) -> None:
        """Hang up, and be no more."""
        with self._changed:
            self._open = False
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()

    def _tell(self, out: Any) -> None:
        with self._changed:
            while self._open:
                snapshot = json.dumps({"stats": self.stats, "workers": self.workers})
                out.write(f"event: snapshot\ndata: {snapshot}\n\n".encode())
                self._changed.wait()
