"""``zpipe dead``: the dead letters of a zpipe-web that runs, by its HTTP interface.

command.py   what can be said on the command line, and what it does
client.py    the requests
text.py      dead letters as lines for a terminal
"""
