"""What an attacker, or a mistake, passes for a value; by the kind of parameter that it is for."""

import datetime as dt
import types
import typing
from decimal import Decimal
from uuid import UUID

from optiinfra_db.generated import models

DEEP = 100_000


def deep(levels=DEEP):
    """Nest lists in each other; what goes through them by recursion gives up."""
    value = []
    for _ in range(levels):
        value = [value]
    return value


def endless():
    """Make a list that holds itself."""
    value = []
    value.append(value)
    return value


TEXTS = [
    "",
    " ",
    "'",
    "''",
    '"',
    "\\",
    "\\'",
    "'; DROP TABLE canary; --",
    "'); DROP TABLE canary; --",
    "' OR true --",
    "' OR '1'='1",
    "x' UNION SELECT api_key_hash::text FROM customers --",
    "1; COMMIT; DROP TABLE canary",
    "/* */ -- x",
    "*/ DROP TABLE canary; /*",
    "$1",
    "$9999",
    "$$; DROP TABLE canary; $$",
    "$do$ BEGIN DROP TABLE canary; END $do$",
    "%s",
    "%(name)s",
    "%",
    "{0} {name!r}",
    "_",
    "%%%",
    ":name ::text",
    "E'\\x27'",
    "U&'\\0027'",
    "\u02bc\u2019\uff07 OR true --",  # homoglyphs of the quote
    "\xbf\x27 OR 1=1",  # what GBK makes one character of
    "null",
    "NULL",
    "DEFAULT",
    "true",
    "{}",
    '{"a": 1}',
    "{NULL,x}",
    "-infinity",
    "\x00",
    "a\x00b",
    "\\u0000",
    "\\x00",
    "\ud800",
    "a\udfff",
    "\ud83d\ude00",  # an emoji as two halves
    "\ufeffbom",
    "\u202egnirts\u202c",
    "a\u0301",
    "\u00e1",
    "\u2028\u2029\x85",
    "\x1b]0;title\x07\x1b[31m",
    "\x9b31m",
    "\r\n\t\v\f\b\x7f",
    "\U0010ffff",
    "x" * 255,
    "x" * 256,
    "x" * 5000,
    "\U0001f600" * 255,
    "x" * 2**20,
]
HUGE = "x" * 2**26
"""Of 64 MB: for a few."""

UUID_TEXT = "01941f29-7c00-7000-8000-000000000000"
WRONG = [
    None,
    True,
    0,
    -1,
    1.5,
    "",
    "x",
    "' OR true --",
    "x" * 100_000,
    b"x",
    b"",
    Decimal(1),
    Decimal("sNaN"),
    (),
    [],
    [None],
    {},
    {"a": 1},
    {1},
    object(),
    int,
    UUID(int=0),
    UUID_TEXT,
    dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    dt.date(2026, 1, 1),
    dt.time(1),
    dt.timedelta(1),
    models.AgentType.COST,
    1j,
    range(3),
    ValueError("x"),
]
"""Values of types that a parameter is not of."""

INTS = [
    0,
    1,
    -1,
    2**15,
    2**31 - 1,
    2**31,
    -(2**31),
    -(2**31) - 1,
    2**63 - 1,
    2**63,
    -(2**64),
    10**400,
    10**5000,
    True,
]
FLOATS = [0.0, -0.0, 5e-324, 1.8e308, -1.8e308, float("inf"), float("-inf"), float("nan"), 10**400]
DECIMALS = [
    Decimal(text)
    for text in (
        "0",
        "-0",
        "1e400000",
        "-1e400000",
        "1e-400000",
        "NaN",
        "sNaN",
        "Infinity",
        "-Infinity",
        "99999999999.99",
        "0.001",
    )
]
TIMES = [
    dt.datetime.min,
    dt.datetime.max,
    dt.datetime.min.replace(tzinfo=dt.UTC),
    dt.datetime.max.replace(tzinfo=dt.UTC),
    dt.datetime.min.replace(tzinfo=dt.timezone(dt.timedelta(hours=23))),
    dt.datetime.max.replace(tzinfo=dt.timezone(-dt.timedelta(hours=23))),
    dt.datetime(2026, 1, 1),
    dt.datetime(2026, 1, 1, tzinfo=dt.timezone(dt.timedelta(hours=23, minutes=59, seconds=59))),
    "infinity",
    "-infinity",
    "now",
    "tomorrow",
    "epoch",
    "294276-12-31 23:59:59+00",
    "4713-01-01 00:00:00+00 BC",
]
SPANS = [
    dt.timedelta.min,
    dt.timedelta.max,
    dt.timedelta(0),
    dt.timedelta(-1),
    dt.timedelta.resolution,
    "1000000000 years",
    "infinity",
]
JSONS = [
    None,
    True,
    0,
    "x",
    "\x00",
    "\ud800",
    [],
    {},
    [[]],
    {"": ""},
    {"\x00": 1},
    {"a\ud800": 1},
    {"a": "\x00"},
    {"a": "\\u0000"},
    {"a": "'; DROP TABLE canary; --"},
    {"$1": "%s"},
    {1: 2},
    {None: 1},
    {True: 1, "true": 2},
    {(1, 2): 3},
    {"a": float("nan")},
    [float("inf"), float("-inf")],
    {"a": 10**400},
    {"a": 10**5000},
    ({"a": 1e308},),
    {"a": Decimal("1e400000")},
    {"a": object()},
    {"a": b"x"},
    {"a": {1}},
    {"a": dt.datetime(2026, 1, 1, tzinfo=dt.UTC)},
    {"a": UUID(int=0)},
    {"__class__": "x", "__proto__": {}},
    '{"a": 1, "a": 2}',
    deep(50),
    deep(500),
    deep(5_000),
    deep(),
    endless(),
]
BYTES = [b"", b"\x00", bytes(31), bytes(33), bytearray(32), memoryview(bytes(32)), *TEXTS[:10]]
LISTS = [
    [],
    [None],
    [[]],
    [["a"], ["b"]],
    [["a"], ["b", "c"]],
    (),
    "abc",
    {},
    ["a", None],
    [0, "x"],
    [object()],
    iter("ab"),
]
UUIDS = [
    UUID(int=0),
    UUID(int=2**128 - 1),
    "",
    "x",
    UUID_TEXT,
    "' OR true --",
    "{" + UUID_TEXT + "}",
    UUID_TEXT + "\x00",
]


def kind(annotation):
    """Return the type of an annotation, without its parts and without None."""
    if typing.get_origin(annotation) in {typing.Union, types.UnionType}:
        (annotation,) = (arm for arm in typing.get_args(annotation) if arm is not type(None))
    return typing.get_origin(annotation) or annotation


def is_json(annotation):
    return kind(annotation) in {typing.Any, dict}


annotations = typing.get_type_hints


def shown(value):
    """Print a value for people, which not all of these can."""
    try:
        return f"{value!r:.60}"
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"


def for_parameter(annotation):
    """Return hostile values for a parameter of this annotation."""
    own = {
        str: TEXTS,
        int: INTS,
        float: FLOATS,
        Decimal: DECIMALS,
        dt.datetime: TIMES,
        dt.timedelta: SPANS,
        UUID: UUIDS,
        bytes: [
            *TEXTS[:10],
            b"",
            b"\x00",
            bytes(31),
            bytes(33),
            bytearray(32),
            memoryview(bytes(32)),
        ],
        bool: ["true", "f", "maybe", 2, 0, 1],
        typing.Any: JSONS,
        dict: JSONS,
        list: LISTS,
    }.get(kind(annotation), TEXTS[:12])
    return [*own, *WRONG]
