"""``zpipe status`` and ``zpipe top``: a look at a zpipe-web that runs, by its HTTP interface.

client.py    the requests
verdict.py   whether it is ready, and why not. No I/O
figures.py   numbers for people. No I/O
tables.py    what both show. No I/O
status.py    ``zpipe status``: one look
top.py       ``zpipe top``: the same live
feed.py      what zpipe-web says each second, for ``zpipe top``
keys.py      the keyboard, while it shows that
"""
