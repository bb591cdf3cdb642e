"""A query's text as tokens: what of it sqlc does not send, read without a parser."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .request import Identifier

_COMMENT = r"--[^\n]*|/\*.*?\*/"
_TOKEN = re.compile(
    rf"""(?P<blank>\s+|{_COMMENT})
    | "(?:[^"]|"")*"
    | [eE]'(?:[^'\\]|\\.|'')*' | '(?:[^']|'')*' | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$
    | \$\d+ | \w[\w$]* | ::
    | (?:(?!{_COMMENT})[-+*/<>=~!@\#%^&|`?])+
    | .""",
    re.DOTALL | re.VERBOSE,
)
_END_WORDS = "FROM WHERE GROUP HAVING WINDOW UNION INTERSECT EXCEPT ORDER LIMIT OFFSET FETCH FOR ;"
_ENDS = frozenset(_END_WORDS.split())
_TABLE_WORDS = "ON USING JOIN INNER CROSS NATURAL LEFT RIGHT FULL TABLESAMPLE SET"
_AFTER_TABLE = _ENDS | frozenset(_TABLE_WORDS.split())
# Of no rows these are NULL.
_AGGREGATE = re.compile(
    r"(?i:sum|avg|max|min|every|mode|\w+_agg|bool_and|bool_or|bit_and|bit_or|bit_xor|corr"
    r"|(?:covar|stddev|var|percentile)_\w+|stddev|variance)"
)
_OTHER_ROW = re.compile(r"(?i:lag|lead|nth_value)")
_NEVER_NULL = ("COUNT", "COALESCE")
_TYPE_TOKEN = re.compile(r'[\w.,()\[\]]+|"(?:[^"]|"")*"')


@dataclass(frozen=True, slots=True)
class Insert:
    """INSERT INTO table (columns) VALUES (values), and no more."""

    table: Identifier
    written: str  # the table as the query has it
    columns: tuple[str, ...]  # as the query has them
    values: tuple[str, ...]  # $1, $2 ...
    has_casts: bool


def tokens(text: str) -> list[str]:
    """Split SQL into words, literals and operators, without its comments."""
    return [match[0] for match in _TOKEN.finditer(text) if match["blank"] is None]


def without_comments(text: str) -> str:
    """Put a space in place of each comment."""
    return _TOKEN.sub(lambda match: " " if match["blank"] else match[0], text)


def unquoted(name: str) -> str:
    """Undo the quotes around a name."""
    return name[1:-1].replace('""', '"') if name[:1] == name[-1:] == '"' else name


def folded(name: str) -> str:
    """Read a name as PostgreSQL does: in lower case, unless it is quoted."""
    return unquoted(name) if name.startswith('"') else name.lower()


def split_at_commas(words: Sequence[str]) -> list[list[str]]:
    """Split at the commas that are in no parentheses."""
    parts: list[list[str]] = [[]]
    for word, depth in _depths(words):
        if word == "," and not depth:
            parts.append([])
        else:
            parts[-1].append(word)
    return parts


def select_list(words: Sequence[str]) -> list[list[str]]:
    """Return the items that a statement returns, each as its tokens; none where that is unclear."""
    upper = [word.upper() if not depth else "" for word, depth in _depths(words)]
    keyword = "RETURNING" if "RETURNING" in upper else "SELECT"
    if keyword not in upper:
        return []
    start = end = upper.index(keyword) + 1
    while end < len(upper) and (upper[end] not in _ENDS or _is_comparison(upper, end)):
        end += 1
    items = split_at_commas(words[start:end])
    first = items[0]
    if first[:1] and first[0].upper() in ("DISTINCT", "ALL"):
        del first[: 1 if "".join(first[1:2]).upper() != "ON" else 2 + _group(first, 2)]
    return items


def outer_joined(words: Sequence[str]) -> frozenset[str]:
    """Return the names in a statement's FROM whose rows an outer join may leave out."""
    flat = list(_flat(words))
    upper = [word.upper() for word in flat]
    if "FROM" not in upper:
        return frozenset()
    names: list[str] = []
    outer: set[str] = set()
    for index in range(upper.index("FROM"), len(flat)):
        if upper[index] in _ENDS - {"FROM"}:
            break
        if upper[index] not in ("FROM", "JOIN", ",") or _is_comparison(upper, index):
            continue
        kind = upper[index - 1 - (upper[index - 1] == "OUTER")] if upper[index] == "JOIN" else ""
        if kind in ("RIGHT", "FULL"):
            outer.update(names)
        names.append(_name_of_relation(flat, index + 1))
        if kind in ("LEFT", "FULL"):
            outer.add(names[-1])
    return frozenset(outer)


def may_be_null(item: Sequence[str], outer: frozenset[str], *, grouped: bool) -> bool:
    """Tell whether an item of a select list can be NULL in a way that sqlc does not see."""
    if item[1:2] == ["."] and folded(item[0]) in outer:
        return True
    upper = [word.upper() for word in item]
    start = 0 if upper[0] == "(" else 1
    if upper[start : start + 1] != ["("]:
        return False
    after = upper[start + _group(item, start) :]
    if not start:
        return upper[1] == "SELECT" and upper[2] not in _NEVER_NULL and _is_named_or_cast(after)
    if _OTHER_ROW.fullmatch(item[0]):
        return True
    may_have_no_rows = not grouped or after[:1] == ["FILTER"]
    return may_have_no_rows and bool(_AGGREGATE.fullmatch(item[0])) and _is_named_or_cast(after)


def _is_named_or_cast(after: Sequence[str]) -> bool:
    """Tell whether what follows a value leaves it NULL where it is."""
    kept = not after[1:] or after[0] in ("FILTER", "WITHIN", "::", "AS")
    return kept and not {"IS", "OVER"} & set(_flat(after))


def is_grouped(words: Sequence[str]) -> bool:
    """Tell whether a statement has groups, of which none is empty."""
    flat = [word.upper() for word in _flat(words)]
    return ("GROUP", "BY") in pairwise(flat)


def insert(words: Sequence[str]) -> Insert | None:
    """Read an INSERT of one row of parameters."""
    words = [*words[: -1 if words[-1:] == [";"] else None], *[""] * 3]
    if [word.upper() for word in words[:2]] != ["INSERT", "INTO"]:
        return None
    at = 5 if words[3] == "." else 3
    name = words[2:at]
    if words[at].upper() not in ("(", "VALUES"):  # an alias
        at += 2 if words[at].upper() == "AS" else 1
    columns: list[list[str]] = []
    if words[at : at + 1] == ["("]:
        end = at + _group(words, at)
        columns = split_at_commas(words[at + 1 : end - 1])
        at = end
    if words[at].upper() != "VALUES" or words[at + 1] != "(":
        return None
    end = at + 1 + _group(words, at + 1)
    values = split_at_commas(words[at + 2 : end - 1])
    if (
        any(words[end:])
        or any(len(column) != 1 for column in columns)
        or len(columns) not in (0, len(values))
        or not all(map(_is_parameter, values))
    ):
        return None
    return Insert(
        Identifier(folded(name[0]) if len(name) > 1 else "", folded(name[-1])),
        "".join(name),
        tuple(column[0] for column in columns),
        tuple(value[0] for value in values),
        any(len(value) > 1 for value in values),
    )


def _is_parameter(value: Sequence[str]) -> bool:
    return bool(
        value
        and re.fullmatch(r"\$\d+", value[0])
        and (value[1:2] in ([], ["::"]))
        and all(map(_TYPE_TOKEN.fullmatch, value[2:]))
    )


def _name_of_relation(flat: Sequence[str], index: int) -> str:
    words = list(flat[index : index + 6])
    while words and words[0].upper() in ("LATERAL", "ONLY"):
        del words[0]
    while words[1:2] == ["."]:
        del words[:2]
    rest = words[1 + (words[1:2] == ["()"] != words[:1]) :]
    if rest and rest[0].upper() == "AS":
        return folded(rest[1])
    if rest and rest[0].upper() not in _AFTER_TABLE and rest[0] not in ",()":
        return folded(rest[0])
    return folded(words[0]) if words else ""


def _is_comparison(upper: Sequence[str], index: int) -> bool:
    return upper[index] == "FROM" and upper[index - 1] == "DISTINCT"


def _group(words: Sequence[str], start: int) -> int:
    """Return the number of tokens of the parentheses that open at `start`."""
    for count, (word, depth) in enumerate(_depths(words[start:]), 1):
        if word == ")" and depth == 1:
            return count
    return len(words) - start


def _flat(words: Sequence[str]) -> Iterator[str]:
    """Put `()` in place of what is in parentheses."""
    for word, depth in _depths(words):
        if not depth:
            yield word
        elif word == "(" and depth == 1:
            yield "()"


def _depths(words: Sequence[str]) -> Iterator[tuple[str, int]]:
    """Tell in how many parentheses each token is; a parenthesis itself is in one at least."""
    depth = 0
    for word in words:
        depth += word in ("(", "[")
        yield word, depth
        depth -= word in (")", "]")
