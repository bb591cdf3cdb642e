"""A query's SQL comment: prose for the reader, and marks for the generator.

-- @returns exactly one      a :one query that finds no row is an error
-- @nullable p50, agent      these result columns or embeds may be NULL
-- @notnull total           these are not NULL, though it looks as if they might
-- @required id               these parameters cannot be left out, nor be NULL
-- @many parts pieces        column parts is a list of the table's models:
--                           array(SELECT p FROM (SELECT pieces.* FROM pieces ...) AS p) AS parts
-- @row WorkflowSummary      the class of its rows, which other queries of the file may share
-- @plan ..., @author ...    any other is for other tools and stays in the prose
"""

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from .problems import Problems

_MARKS = ("returns", "nullable", "notnull", "required", "many", "row")
_MARK = re.compile(r"@([A-Za-z][\w-]*)\s*(.*)")
_SQLC_PREFIX = "sqlc-"


@dataclass(frozen=True, slots=True)
class Comment:
    """What a query's comment says."""

    prose: str
    exactly_one: bool
    nullable: frozenset[str]
    not_null: frozenset[str]
    required: frozenset[str]  # parameters
    many: dict[str, str]  # column -> table
    row: str


def parse_comment(lines: Sequence[str], place: str, problems: Problems) -> Comment:
    """Tell the marks from the prose."""
    prose: list[str] = []
    lists: dict[str, set[str]] = {"nullable": set(), "notnull": set(), "required": set()}
    many: dict[str, str] = {}
    row = ""
    exactly_one = False
    for line in "\n".join(lines).splitlines():
        match = _MARK.fullmatch(line.strip())
        if match is None or match[1] not in _MARKS:
            if match is None or not _is_wrong(match[1], place, problems):
                prose.append(line.removeprefix(" ").rstrip())
        elif match[1] == "returns":
            exactly_one = True
            if " ".join(match[2].split()) != "exactly one":
                problems.add(place, f"@returns {match[2]}: the only form is '@returns exactly one'")
        elif match[1] in lists:
            names = [name.strip().strip('"') for name in match[2].split(",")]
            lists[match[1]].update(name for name in names if name)
            if not all(names):
                problems.add(place, f"@{match[1]} needs names, separated by commas")
        elif match[1] == "many":
            column, _, table = match[2].partition(" ")
            many[column] = table.strip()
            if not table or " " in table.strip():
                problems.add(place, f"@many {match[2]}: write @many column table")
        elif match[1] == "row":
            row = match[2]
            if not re.fullmatch(r"[A-Z]\w*", row):
                problems.add(place, f"@row {row}: write the name of a class")
    nullable, not_null, required = (frozenset(names) for names in lists.values())
    for name in sorted(nullable & not_null):
        problems.add(place, f"{name} is both @nullable and @notnull")
    text = "\n".join(prose).strip("\n")
    return Comment(text, exactly_one, nullable, not_null, required, many, row)


def _is_wrong(mark: str, place: str, problems: Problems) -> bool:
    """Tell whether a mark that is not known should have been; sqlc's own are for sqlc."""
    meant = difflib.get_close_matches(mark.lower(), _MARKS, 1, 0.8)
    if meant:
        problems.add(place, f"there is no mark @{mark}; @{meant[0]} seems to be meant")
    return bool(meant) or mark.startswith(_SQLC_PREFIX)
