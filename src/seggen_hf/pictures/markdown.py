"""Markdown: tables; and text of others in it and in code, which stays text, whatever is in it."""

import re
from collections.abc import Iterable, Sequence

MARKUP = "\\`*_[]<>|&~$"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table; its cells are Markdown already."""
    first, *others = ["| " + " | ".join(cells) + " |" for cells in (header, *rows)]
    return [first, "|" + "---|" * len(header), *others]


def marked(name: str, text: str) -> tuple[str, str, str]:
    """`text` before, between and after the lines that mark what a script writes: `<!-- NAME:begin -->`, `:end`.

    Raises: `ValueError` if they are not there.
    """
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    before, found, rest = text.partition(begin)
    between, ended, after = rest.partition(end)
    if not found or not ended:
        raise ValueError(f"there are no lines {begin.strip()} and {end}")
    return before + begin, between, end + after


def cell(value) -> str:
    """Text that stays one line, or one cell of a table, and cannot become markup."""
    return "".join(f"\\{c}" if c in MARKUP else c for c in one_line(value))


def code_span(value) -> str:
    """Text as inline code; in a table use `cell`."""
    text = one_line(value)
    ticks = "`" * (1 + max((len(run) for run in re.findall("`+", text)), default=0))
    space = " " if text.startswith("`") or text.endswith("`") else ""
    return f"{ticks}{space}{text}{space}{ticks}" if text else ""


def literal(value) -> str:
    """Python source of a value, on one line; of text without a backtick, so that no fence ends in it."""
    if not isinstance(value, str):
        return repr(value)
    escaped = {'"': '\\"', "`": "\\x60"}
    return '"' + "".join(escaped.get(c) or _printable(c) for c in value) + '"'


def one_line(value) -> str:
    """Text without line breaks and other signs that do not show."""
    return " ".join("".join(c for c in str(value) if c.isprintable() or c.isspace()).split())


def _printable(character: str) -> str:
    if character.isprintable() and character != "\\":
        return character
    return character.encode("unicode_escape").decode("ascii")
