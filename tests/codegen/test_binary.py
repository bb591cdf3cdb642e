"""Lists are fetched in binary format where that makes the same values as the text does."""

import sys
from types import ModuleType

import psycopg
import pytest

from . import support
from .conftest import Api

sys.path.insert(0, str(support.PLUGIN.parent))

from sqlc_gen_psycopg import pgtypes

LITERALS = {
    "bool": ["true", "false"],
    "bytea": [r"\x", r"\x00ff5c"],
    "date": ["2024-02-29", "0001-01-01", "9999-12-31"],
    "daterange": ["[2024-01-01,2024-02-01)", "empty", "(,)"],
    "datemultirange": ["{[2024-01-01,2024-02-01)}", "{}"],
    "float8": ["0.1", "1e300", "-0", "NaN", "Infinity", "5e-324"],
    "int2": ["-32768", "7"],
    "int4": ["-2147483648", "7"],
    "int4multirange": ["{[1,2),[5,9)}"],
    "int4range": ["[1,5)", "(,5)", "empty"],
    "int8": ["-9223372036854775808", "7"],
    "int8multirange": ["{[1,2),[1099511627776,)}"],
    "int8range": ["[1,5)", "(,)"],
    "interval": ["1 year 2 mons -3 days 04:05:06.789", "-00:00:00.000001"],
    "json": ['{"a": [1, null, "ü"]}', ' "x" ', "null"],
    "jsonb": ['{"a": [1, null, "ü"]}', "{}", "[]", "null", "1e400"],
    "name": ["pg_class"],
    "nummultirange": ["{[0.5,1.50)}"],
    "numeric": ["12.50", "-0.000000000000000001", "NaN", "1e50", "0"],
    "numrange": ["[0.5,1.50]"],
    "oid": ["4294967295"],
    "text": ["", "it's ü😀\\ \t\n"],
    "time": ["23:59:59.999999", "00:00"],
    "timestamp": ["2024-01-02 03:04:05.678901", "0001-01-01", "9999-12-31 23:59:59.999999"],
    "timestamptz": ["2024-07-02 03:04:05.678901+05:30", "2024-01-02 03:04:05Z"],
    "timetz": ["01:02:03.000004+05:30"],
    "tsmultirange": ["{[2024-01-01,2024-02-01)}"],
    "tsrange": ["[2024-01-01,2024-02-01)"],
    "tstzmultirange": ["{[2024-01-01Z,2024-02-01Z)}"],
    "tstzrange": ["[2024-01-01Z,2024-02-01Z)", "(,)"],
    "uuid": ["80000000-0000-0000-0000-000000000001"],
    "varchar": ["", "abc"],
}
ZONES = ["UTC", "America/New_York"]


def test_every_type_is_compared() -> None:
    kinds = {base: pgtypes.PyType("x", base=base) for base in pgtypes._BINARY_COPY}
    assert {base for base, kind in kinds.items() if kind.is_same_in_binary} == set(LITERALS)


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("name", LITERALS)
def test_binary_format_makes_what_the_text_makes(
    nasty: ModuleType, nasty_url: str, name: str, zone: str
) -> None:
    runtime = nasty._runtime
    with psycopg.connect(nasty_url, autocommit=True) as conn:
        conn.execute("SELECT set_config('TimeZone', %s, false)", [zone])
        for sql in (
            f"SELECT $1::text::{name}",
            f"SELECT NULL::{name}, $1::text",
            f"SELECT ARRAY[$1::text::{name}, NULL]",
        ):
            for literal in LITERALS[name]:
                made = [
                    runtime.many(conn, sql, (literal,), runtime.first, binary=binary)
                    for binary in (False, True)
                ]
                assert repr(made[0]) == repr(made[1]), literal


def test_lists_are_fetched_in_binary_where_all_of_their_types_can_be() -> None:
    people = (support.GOLDEN / "people.py").read_text()
    assert "binary=True" in people.partition("def list_people(")[2].partition("\n\n\n")[0]
    assert "binary=True" not in people.partition("def get_person(")[2].partition("\n\n\n")[0]


@pytest.mark.parametrize(
    "kind",
    [
        pgtypes.PyType("float", base="float4"),
        pgtypes.PyType("str", base="bit"),
        pgtypes.PyType("int", base="int4", is_domain=True),
        pgtypes.PyType("models.Mood", is_enum=True, dims=1),
        pgtypes.PyType("str"),
    ],
)
def test_what_differs_in_binary_or_is_not_known_is_fetched_as_text(kind: pgtypes.PyType) -> None:
    assert not kind.is_same_in_binary


@pytest.mark.parametrize("kind", ["autocommit", "prepared", "pipeline"])
def test_members_of_enums_are_found_by_their_binary_label(api: Api) -> None:
    made = api.people.create_person(name="ü", mood=api.models.Mood.DON_T_QUOTE)
    for _ in range(2):
        assert api.people.list_people() == [made]
        assert api.people.list_moods() == [api.models.Mood.DON_T_QUOTE]
