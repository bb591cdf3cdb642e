"""A query's SQL comment: prose for the reader, and marks for the generator.

-- @returns exactly one      a :one query that finds no row is an error
-- @nullable p50, agent      these result columns or embeds may be NULL
-- @many parts pieces        column parts is a list of the table's models:
--                           array(SELECT p FROM (SELECT pieces.* FROM pieces ...) AS p) AS parts
-- @row WorkflowSummary      the class of its rows, which other queries of the file may share
-- @plan ..., @index ...     for other tools; they stay in the prose
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from .problems import Problems

_NAMES = "@returns, @nullable, @many, @row, @plan, @index"
_MARK = re.compile(r"@([A-Za-z][\w-]*)\s*(.*)")
_PROSE_MARKS = ("plan", "index")
_SQLC_PREFIX = "sqlc-"


@dataclass(frozen=True, slots=True)
class Comment:
    """What a query's comment says."""

    prose: str
    exactly_one: bool
    nullable: frozenset[str]
    many: dict[str, str]  # column -> table
    row: str


def parse_comment(lines: Sequence[str], place: str, problems: Problems) -> Comment:
    """Tell the marks from the prose."""
    prose: list[str] = []
    nullable: set[str] = set()
    many: dict[str, str] = {}
    row = ""
    exactly_one = False
    for line in "\n".join(lines).splitlines():
        match = _MARK.fullmatch(line.strip())
        if match is None or match[1] in _PROSE_MARKS:
            prose.append(line.removeprefix(" ").rstrip())
        elif match[1] == "returns":
            exactly_one = True
            if " ".join(match[2].split()) != "exactly one":
                problems.add(place, f"@returns {match[2]}: the only form is '@returns exactly one'")
        elif match[1] == "nullable":
            names = [name.strip().strip('"') for name in match[2].split(",")]
            nullable.update(name for name in names if name)
            if not all(names):
                problems.add(place, "@nullable needs column names, separated by commas")
        elif match[1] == "many":
            column, _, table = match[2].partition(" ")
            many[column] = table.strip()
            if not table or " " in table.strip():
                problems.add(place, f"@many {match[2]}: write @many column table")
        elif match[1] == "row":
            row = match[2]
            if not re.fullmatch(r"[A-Z]\w*", row):
                problems.add(place, f"@row {row}: write the name of a class")
        elif not match[1].startswith(_SQLC_PREFIX):
            problems.add(place, f"there is no mark @{match[1]}; the marks are {_NAMES}")
    return Comment("\n".join(prose).strip("\n"), exactly_one, frozenset(nullable), many, row)
