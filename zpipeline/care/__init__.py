"""``zpipe journal``: the care of a journal file, by a process that is not its zpipe-web.

command.py   the group of subcommands
backup.py    ``zpipe journal backup``: what can be said on the command line, and what it shows
copying.py   a copy of a journal that may be in use
snapshot.py  a journal as it stood at one moment: opened to be read only
"""
