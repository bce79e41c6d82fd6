# ruff: noqa: E401, E701, I001
# fmt: off
"""A worker for ZPP/1, written from docs/protocol.rst (the rules named here are its rules) with nothing but pyzmq.
Usage: zpp_worker.py PORT [OUTFILE] [SECONDS]. Each job appends "begin ID BODY" to OUTFILE, sleeps, appends "end ID".
Bodies "fail", "reject" and "later N" fail so; one that begins with "echo" is returned. A timeout interrupts `handler`
by SIGALRM; C code that blocks goes on.
"""
import json, os, random, re, signal, socket, struct, sys, time, traceback
import zmq, zmq.utils.monitor

port, outfile, seconds = [*sys.argv[1:], *["4444", os.devnull, "0"][len(sys.argv) - 1 :]]
out, now = os.open(outfile, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), time.monotonic
incarnation, head = random.getrandbits(64), b"\xf0ZPP\x01"
about = {"concurrency": 1, "host": socket.gethostname(), "pid": os.getpid(), "handler": "zpp_worker", "version": "1"}
ready = b"R", struct.pack("!Q", incarnation), json.dumps(about).encode()
# Jobs not begun (session or None, sequence, body, when it came); each ventilator's newest session; when SIGTERM came
queue, sessions, leaving = [], {}, []

class Reject(Exception): """Raised by a handler: this job can never work."""
class RetryLater(Exception): """Raised by a handler, with the seconds to wait, and why: not now."""
class TimedOut(BaseException): """Raised in a handler that takes too long; it is no Exception that one may catch."""

class Session:
    def __init__(self, ventilator, generation, number, sink, limits, done):
        self.ventilator, self.generation, self.number, self.sink = ventilator, generation, number, sink
        self.window, self.timeout = limits.get("window"), limits.get("timeout")
        self.done, self.given_up, self.received, self.useful_at = done, False, 0, now()
        self.connect()
    def connect(self):  # rule 1: each connection has its own socket, and READY is first on it
        self.push, self.up, self.sent, self.try_at = context.socket(zmq.PUSH), False, 0, now() + 5
        self.push.setsockopt(zmq.IPV6, "[" in self.sink)
        self.monitor = self.push.get_monitor_socket(addr=f"inproc://{random.getrandbits(64)}")
        self.push.connect(self.sink)
        for _ in range(1 + self.given_up): self.send(*ready)  # rule 3
    def send(self, letter, fields=b"", *frames):
        self.sent += letter in b"DFT"
        if self.push.poll(0, zmq.POLLOUT):  # else the connection is gone, as the monitor will tell
            self.push.send_multipart([head + letter, struct.pack("!Q", self.number) + fields, *frames])
    def report(self):  # rule 8; when a session is given up, what is done waits for the next one
        if self.done and self.up and (leaving or not self.given_up) and self.push.poll(0, zmq.POLLOUT):
            numbers, results = zip(*self.done, strict=True)
            self.send(b"D", struct.pack(f"!{len(numbers)}Q", *numbers), *(results if any(results) else ()))
            self.done.clear()
    def give_up(self, say=True, forget=False):  # rule 3
        self.report()
        queue[:] = [job for job in queue if job[0] is not self]
        self.given_up = True
        if say: self.send(*ready)
        if forget: sessions.pop(self.ventilator).close()
    def close(self):
        self.push.disable_monitor()  # or libzmq keeps all of its sockets
        self.push.close(2000 if self.up else 0)  # rule 9
    def look_after(self):
        while self.monitor.poll(0):
            event, was_up = zmq.utils.monitor.recv_monitor_message(self.monitor)["event"], self.up
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED: self.up = True
            elif event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED):
                self.up, self.try_at = False, now() + random.uniform(0.1, 0.5)
                if was_up: self.give_up()
        if self.up and not self.given_up and now() > self.useful_at + 1:
            self.useful_at = now()
            self.send(b"S", struct.pack("!IQQ", 1, self.received, self.sent))
        if now() > self.useful_at + 60 or (leaving and (self.given_up or not self.up)):  # rules 3 and 6
            self.give_up(forget=True)
        elif not self.up and now() > self.try_at:
            self.close()
            self.connect()

def handle(peer, kind, fields, *rest):
    session = next((s for s in sessions.values() if struct.pack("!Q", s.number) == fields[:8] and not s.given_up), None)
    if kind == head + b"H":
        (ventilator, generation, number), limits = struct.unpack("!QQQ", fields), json.loads(rest[0])
        host, sink_port = re.fullmatch(r"tcp://(\[[\w:.%]+\]|[\w.*-]+):(\d+)", limits["sink"]).groups()
        host, old = peer if host in ("*", "0.0.0.0", "[::]") else host.strip("[]"), sessions.get(ventilator)
        if not old or generation > old.generation:  # rules 1 and 4
            host = socket.getaddrinfo(host, None)[0][4][0]  # libzmq would do so in the thread of all sockets
            sink = f"tcp://[{host}]:{sink_port}" if ":" in host else f"tcp://{host}:{sink_port}"
            new = Session(ventilator, generation, number, sink, limits, old.done if old else [])
            least = min(sessions.values(), key=lambda s: s.received) if len(sessions) > 50 else None  # rule 10
            if old or least: (old or least).give_up(forget=True)
            sessions[ventilator] = new
    elif kind == head + b"J" and session:
        n = struct.unpack_from("!QI", fields)[1]
        sequences, lengths = struct.unpack_from(f"!{n}Q", fields, 12), struct.unpack_from(f"!{n}I", fields, 12 + 18 * n)
        bodies = struct.unpack("".join(f"{length}s" for length in lengths), rest[0])
        queue.extend((session, sequence, body, now()) for sequence, body in zip(sequences, bodies, strict=True))
        session.received += n
    elif kind == head + b"C" and session: session.give_up(say=False, forget=True)

def handler(name, body):  # put yours here
    os.write(out, f"begin {name} {body}\n".encode())
    time.sleep(float(seconds))
    if body == "fail": raise ValueError("as it was told to")
    if body == "reject": raise Reject("as it was told to")
    if body.startswith("later "): raise RetryLater(float(body[6:]), "as it was told to")
    os.write(out, f"end {name}\n".encode())
    if body.startswith("echo"): return body

def pack(result):
    try:
        if result is None: return b""
        if isinstance(result, bytes): packed = b"b" + result
        elif isinstance(result, str): packed = b"t" + result.encode()
        else: packed = b"j" + json.dumps(result, allow_nan=False).encode()
    except (TypeError, ValueError, RecursionError) as error: return b"d" + str(error).encode(errors="replace")
    return packed if len(packed) <= 2**20 + 1 else b"dit is over 1 MiB"

def time_out(*_): raise TimedOut

def run(session, sequence, body, _):
    name, timeout = f"{session.ventilator if session else incarnation:016x}{sequence:016x}", session and session.timeout
    try:  # rule 11
        signal.setitimer(signal.ITIMER_REAL, min(timeout or 0, 1e6))  # 0: none
        try: result = handler(name, body.decode(errors="replace"))
        finally: signal.setitimer(signal.ITIMER_REAL, 0)
        if session: session.done.append((sequence, pack(result)))
    except (Exception, TimedOut) as error:
        kind, delay, reason = isinstance(error, Reject), -1.0, f"{type(error).__name__}: {error}"
        if isinstance(error, RetryLater): delay, reason = error.args
        if isinstance(error, TimedOut): reason = f"timed out after {timeout:g} seconds"
        print(f"job {name} failed: {reason}", file=sys.stderr)
        if session and not session.given_up:  # else the job is with others by now
            texts = " ".join(reason.split()), traceback.format_exc()
            session.send(b"F", struct.pack("!QBd", sequence, kind, delay), *(t.encode(errors="replace") for t in texts))

signal.signal(signal.SIGALRM, time_out)
context, said_bye, alive_at = zmq.Context(), False, now()
for option, value in ((zmq.RCVHWM, 0), (zmq.SNDHWM, 0), (zmq.LINGER, 0), (zmq.RECONNECT_IVL, -1)):
    context.setsockopt(option, value)
(pull := context.socket(zmq.PULL)).bind(f"tcp://127.0.0.1:{port}")
for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, lambda *_: leaving.append(now()))
print(f"ready for ventilators on port {port}", file=sys.stderr, flush=True)
while not said_bye or ((queue or sessions) and now() < leaving[0] + 30):
    readable, stopped, alive_at = pull.poll(0 if queue else 20), now() > alive_at + float(seconds) + 1, now()
    for session in list(sessions.values()): session.look_after()
    for session in sessions.values() if stopped else (): session.give_up()  # rule 3
    if leaving and not said_bye:  # rule 6
        said_bye = True
        for session in sessions.values(): session.send(b"B")
    for _ in range(1000 if readable else 0):
        try:
            message = pull.recv_multipart(zmq.NOBLOCK, copy=False)
            peer, frames = message[0]["Peer-Address"], [frame.bytes for frame in message]
            if frames[0].startswith(head[:4]): handle(peer, *frames)
            else: queue.append((None, random.getrandbits(64), frames[-1], now()))  # a plain job
        except zmq.Again: break
        except Exception as error: print(f"dropped a message: {error!r}", file=sys.stderr)  # rule 10
    until = now() + 0.005
    while queue and now() < until: run(*queue.pop(0))
    if queue and now() > queue[0][3] + 0.1:  # rule 7
        back = [job for job in queue[2:] if job[0] and not job[0].window]
        for session in {job[0] for job in back}:
            session.send(b"T", b"".join(struct.pack("!Q", job[1]) for job in back if job[0] is session))
        queue[2:] = [job for job in queue[2:] if not job[0] or job[0].window]
    for session in sessions.values(): session.report()
context.destroy(linger=2000)
