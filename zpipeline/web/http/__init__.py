"""HTTP below the routes: bytes become requests, and no client has more than its share of memory and of time.

channel.py       connections: reading, answering, and the deadlines of each
parser.py        HTTP/1.1 as a server reads it, without I/O
request.py       one request: its body in memory, the headers that a job gets, answers in JSON
outgoing.py      what is written, no faster than the client reads
deadlines.py     one timer for all connections with the same deadline
turns.py         turns of the reactor, for what takes long
incoming.py      how many bytes bodies have together
connections.py   how many connections there are
"""
