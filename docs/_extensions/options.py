"""The options of twistd's plugins as tables, which are made of the plugins themselves: they cannot say anything else.

The directive takes the class of the options, and what is to be said of them beyond their own help::

    .. options:: zpipeline.tap.worker.Options

        --threads N
            Run a handler that blocks in so many threads.

Each option of the class is in the table, with its default: those that are explained here first, in this order, and the
others after them, with the words of ``--help``. To explain one that the class does not have is an error.
"""

from __future__ import annotations

import re
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective
from twisted.python.reflect import namedAny
from twisted.python.usage import Options

_WIDTHS = (24, 26, 50)
_DEFAULT = re.compile(r"\s*\[default: ([^\]]*)\]")


class OptionsTable(SphinxDirective):
    """``.. options:: CLASS``"""

    required_arguments = 1
    has_content = True

    def run(self) -> list[nodes.Node]:
        """The table."""
        options = namedAny(self.arguments[0])()
        names = {name.rstrip("="): name.endswith("=") for name in options.longOpt if name not in ("help", "version")}
        explained = dict(self._explanations())
        if unknown := {term.split()[0][2:] for term in explained} - names.keys():
            raise self.error(f"{self.arguments[0]} has no option --{min(unknown)}")
        said = {term.split()[0][2:]: term for term in explained}
        rows = []
        for name in [*said, *(name for name in names if name not in said)]:
            default, text = _help(options, name, takes_value=names[name])
            term = said.get(name, f"--{name}")
            content = explained.get(term) or StringList([text], source=self.arguments[0])
            rows.append([_literal(term), default, self._parsed(content)])
        return [_table(rows)]

    def _explanations(self) -> list[tuple[str, StringList]]:
        """What is said of options: as it stands on the page, and what follows it."""
        found: list[tuple[str, StringList]] = []
        for number, line in enumerate(self.content):
            if line.startswith("--"):
                found.append((line.strip(), StringList()))
            elif line.strip() and not found:
                raise self.error(f"an option is expected, not {line!r}")
            elif found:
                source, offset = self.content.info(number)
                found[-1][1].append(line.strip(), source, offset)
        return found

    def _parsed(self, content: StringList) -> list[nodes.Node]:
        cell = nodes.Element()
        self.state.nested_parse(content, self.content_offset, cell)
        return cell.children


def _help(options: Options, name: str, *, takes_value: bool) -> tuple[nodes.Node, str]:
    """The default of an option, and its help without that."""
    text = " ".join((options.docs.get(name) or "").split())
    in_text = _DEFAULT.search(text)
    default = options.defaults.get(name)
    if not takes_value:
        shown: nodes.Node = nodes.paragraph("", "off")
    elif in_text is not None:
        shown = nodes.paragraph("", in_text[1])
    else:
        shown = _literal(f"{default:g}" if isinstance(default, float) else str(default))
    return shown, _DEFAULT.sub("", text)


def _literal(text: str) -> nodes.Node:
    return nodes.paragraph("", "", nodes.literal(text, text))


def _table(rows: list[list[Any]]) -> nodes.table:
    head = nodes.row("", *(nodes.entry("", nodes.paragraph("", title)) for title in ("option", "default", "")))
    body = [nodes.row("", *(nodes.entry("", *_listed(cell)) for cell in row)) for row in rows]
    columns = [nodes.colspec(colwidth=width) for width in _WIDTHS]
    group = nodes.tgroup("", *columns, nodes.thead("", head), nodes.tbody("", *body), cols=len(columns))
    return nodes.table("", group, classes=["options"])


def _listed(cell: Any) -> list[nodes.Node]:
    return cell if isinstance(cell, list) else [cell]


def setup(app: Sphinx) -> dict[str, Any]:
    """Called by Sphinx."""
    app.add_directive("options", OptionsTable)
    return {"parallel_read_safe": True}
