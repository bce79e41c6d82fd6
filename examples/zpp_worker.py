"""A worker for ZPP/1, written from docs/protocol.rst (the rules named here are its rules) with nothing but pyzmq.
Usage: zpp_worker.py PORT [OUTFILE] [SECONDS]. Each job appends "begin ID BODY" to OUTFILE, sleeps, appends "end ID".
"""
import json, os, random, re, signal, socket, struct, sys, time, traceback, zmq, zmq.utils.monitor
port, outfile, seconds = [*sys.argv[1:], *["4444", os.devnull, "0"][len(sys.argv) - 1 :]]
out, now = os.open(outfile, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), time.monotonic
incarnation, head = random.getrandbits(64), b"\xf0ZPP\x01"
about = {"concurrency": 1, "host": socket.gethostname(), "pid": os.getpid(), "handler": "zpp_worker", "version": "1"}
ready = b"R", struct.pack("!Q", incarnation), json.dumps(about).encode()
# Jobs not begun (session or None, sequence, body, when it came); each ventilator's newest session; when SIGTERM came
queue, sessions, leaving = [], {}, []

def handler(name, body):  # yours: it returns a result as DONE has it, and its errors may have FAILED's kind and delay
    os.write(out, f"begin {name} {body}\n".encode())
    time.sleep(float(seconds))
    os.write(out, f"end {name}\n".encode())
    return b"t" + body.encode() if body.startswith("echo") else b""

class Session:
    def __init__(self, *about):
        self.ventilator, self.generation, self.number, self.sink, self.window, self.timeout, self.done = about
        self.given_up, self.received, self.useful_at = False, 0, now()
        self.connect()
    def connect(self):  # rule 1: each connection has its own socket, and READY is first on it
        self.push, self.up, self.sent, self.try_at = context.socket(zmq.PUSH), False, 0, now() + 5
        self.monitor = self.push.get_monitor_socket(addr=f"inproc://{random.getrandbits(64)}")
        self.push.connect(self.sink)
        for _ in range(1 + self.given_up): self.send(*ready)  # rule 3
    def send(self, letter, fields=b"", *frames):
        self.sent += letter in b"DFT"
        try: self.push.send_multipart([head + letter, struct.pack("!Q", self.number) + fields, *frames], zmq.NOBLOCK)
        except zmq.Again: pass  # the connection is gone, as the monitor will tell
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
    def look_after(self, give_up):
        while self.monitor.poll(0):
            event = zmq.utils.monitor.recv_monitor_message(self.monitor)["event"]
            if event == zmq.EVENT_HANDSHAKE_SUCCEEDED: self.up = True
            elif event in (zmq.EVENT_DISCONNECTED, zmq.EVENT_CLOSED):
                give_up, self.up, self.try_at = give_up or self.up, False, now() + random.uniform(0.1, 0.5)
        if give_up: self.give_up()
        if self.up and not self.given_up and now() > self.useful_at + 1:
            self.useful_at = now()
            self.send(b"S", struct.pack("!IQQ", 1, self.received, self.sent))
        if now() > self.useful_at + 60 or (leaving and (self.given_up or not self.up)): self.give_up(forget=True)
        elif not self.up and now() > self.try_at:
            self.close()
            self.connect()

def take(kind, fields, *rest):
    session = next((s for s in sessions.values() if struct.pack("!Q", s.number) == fields[:8] and not s.given_up), None)
    if kind == head + b"H":
        (ventilator, generation, number), limits = struct.unpack("!QQQ", fields), json.loads(rest[0])
        host, sink_port = re.fullmatch(r"tcp://([\w.*-]+):(\d+)", limits["sink"]).groups()
        if not (old := sessions.get(ventilator)) or generation > old.generation:  # rules 1 and 4
            sink = f"tcp://{socket.gethostbyname(host.replace('*', '127.0.0.1'))}:{sink_port}"  # see bind, below
            about = ventilator, generation, number, sink, limits.get("window"), limits.get("timeout")
            new = Session(*about, old.done if old else [])
            for gone in [old] if old else sorted(sessions.values(), key=lambda s: s.received)[:-50]:  # rule 10
                gone.give_up(forget=True)
            sessions[ventilator] = new
    elif kind == head + b"J" and session:
        n = struct.unpack_from("!QI", fields)[1]
        sequences, lengths = struct.unpack_from(f"!{n}Q", fields, 12), struct.unpack_from(f"!{n}I", fields, 12 + 18 * n)
        bodies = struct.unpack("".join(f"{length}s" for length in lengths), rest[0])
        queue.extend((session, sequence, body, now()) for sequence, body in zip(sequences, bodies, strict=True))
        session.received += n
    elif kind == head + b"C" and session: session.give_up(say=False, forget=True)

def run(session, sequence, body, _):
    name, timeout = f"{session.ventilator if session else incarnation:016x}{sequence:016x}", session and session.timeout
    try:  # rule 11; a timeout interrupts like Ctrl-C, save for C code that blocks
        signal.setitimer(signal.ITIMER_REAL, min(timeout or 0, 1e6))  # 0: none
        try: result = handler(name, body.decode(errors="replace"))
        finally: signal.setitimer(signal.ITIMER_REAL, 0)
        if session: session.done.append((sequence, result))
    except (Exception, KeyboardInterrupt) as error:
        why = f"timed out after {timeout:g} seconds" if isinstance(error, KeyboardInterrupt) else repr(error)
        print(f"job {name} failed: {why}", file=sys.stderr)
        if session and not session.given_up:  # else the job is with others by now
            how = struct.pack("!QBd", sequence, getattr(error, "kind", 0), getattr(error, "delay", -1.0))
            session.send(b"F", how, *(text.encode(errors="replace") for text in (why, traceback.format_exc())))

signal.signal(signal.SIGALRM, signal.default_int_handler)
for number in (signal.SIGTERM, signal.SIGINT): signal.signal(number, lambda *_: leaving.append(now()))
context, said_bye, alive_at = zmq.Context(), False, now()
for option, value in ((zmq.RCVHWM, 0), (zmq.SNDHWM, 0), (zmq.RECONNECT_IVL, -1)): context.setsockopt(option, value)
(pull := context.socket(zmq.PULL)).bind(f"tcp://127.0.0.1:{port}")
print(f"ready for ventilators on port {port}", file=sys.stderr, flush=True)
while not said_bye or ((queue or sessions) and now() < leaving[0] + 30):
    _, stopped, alive_at = pull.poll(0 if queue else 20), now() > alive_at + float(seconds) + 1, now()
    for session in list(sessions.values()): session.look_after(stopped)
    if leaving and not said_bye: said_bye = [session.send(b"B") for session in sessions.values()] or True  # rule 6
    for _ in range(1000):
        try:
            frames = pull.recv_multipart(zmq.NOBLOCK)
            if frames[0].startswith(head[:4]): take(*frames)
            else: queue.append((None, random.getrandbits(64), frames[-1], now()))  # a plain job
        except zmq.Again: break
        except Exception as error: print(f"dropped a message: {error!r}", file=sys.stderr)  # rule 10
    until = now() + 0.005
    while queue and now() < until: run(*queue.pop(0))
    back = [job for job in queue[2:] if job[0] and not job[0].window] if queue and now() > queue[0][3] + 0.1 else []
    for session, number, *_ in back: session.send(b"T", struct.pack("!Q", number))  # rule 7
    if back: queue[2:] = [job for job in queue[2:] if not job[0] or job[0].window]
    for session in sessions.values(): session.report()
context.destroy(linger=2000)
