"""The generated code on PostgreSQL: sync and async, on every kind of connection."""

import datetime
import ipaddress
import uuid
from decimal import Decimal
from types import ModuleType
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb
from psycopg.types.multirange import Multirange
from psycopg.types.range import Range

from .conftest import Api

UTC = datetime.UTC
NOON = datetime.datetime(2024, 5, 17, 12, 30, 15, 123456, tzinfo=UTC)


def one_of_each(models: ModuleType) -> dict[str, Any]:
    return {
        "c_int2": -(2**15),
        "c_int4": 2**31 - 1,
        "c_int8": -(2**63),
        "c_float4": 0.5,
        "c_float8": 1e300,
        "c_numeric": Decimal("1234567890.12"),
        "c_bool": False,
        "c_text": 'it\'s "100%" \\ $1 %s ü😀\n',
        "c_varchar": "",
        "c_char": "abc",
        "c_bytea": b"\x00\xff\\",
        "c_uuid": uuid.UUID(int=2**127 + 1),
        "c_date": datetime.date(2024, 2, 29),
        "c_time": datetime.time(23, 59, 59, 999999),
        "c_timetz": datetime.time(1, 2, 3, tzinfo=datetime.timezone(datetime.timedelta(hours=5))),
        "c_timestamp": datetime.datetime(2024, 1, 2, 3, 4, 5, 6),
        "c_timestamptz": NOON,
        "c_interval": datetime.timedelta(days=-1, seconds=5, microseconds=7),
        "c_json": {"a": [1, None]},
        "c_jsonb": ["x", {"y": 'ü"\\'}],
        "c_inet": ipaddress.ip_interface("10.0.0.1/8"),
        "c_cidr": ipaddress.ip_network("2001:db8::/32"),
        "c_macaddr": "08:00:2b:01:02:03",
        "c_xid8": 2**63 + 1,
        "c_oid": 2**32 - 1,
        "c_bit": "101",
        "c_money": "$12.34",
        "c_int4range": Range(1, 5),
        "c_int8range": Range(None, 5),
        "c_numrange": Range(Decimal("0.5"), None, "(]"),
        "c_daterange": Range(datetime.date(2024, 1, 1), datetime.date(2024, 2, 1)),
        "c_tstzrange": Range(NOON, None),
        "c_datemultirange": Multirange(
            [Range(datetime.date(2024, 1, 1), datetime.date(2024, 2, 1))]
        ),
        "c_int8multirange": Multirange([Range(1, 2), Range(2**40, None)]),
        "c_mood": models.Mood.DON_T_QUOTE,
        "c_odd": models.OddEnum("NULL"),
        "c_color": models.OtherColor.GREEN,
        "c_email": "a@b",
        "c_positive": 7,
        "c_price": Decimal("9.99"),
        "c_pair": "(1,x)",
        "c_ints": [1, 2**31 - 1, -5],
        "c_matrix": [[1, 2], [3, 4]],
        "c_texts": ["", "NULL", 'a"b', "{,}", "\\"],
        "c_times": [NOON],
        "c_jsonbs": [{"a": 1}, [], "s"],
        "c_moods": list(models.Mood),
        "c_odds": list(models.OddEnum),
        "c_positives": [1, 2],
        "c_uuids": [uuid.UUID(int=1)],
        "c_ranges": [Range(1, 5), Range(None, None)],
        "c_pairs": ["(1,x)", '(2,"y z")'],
        "c_snapshots": ["10:20:10,14"],
    }


# COPY takes a bound's form as given; a row comes back in PostgreSQL's canonical form.
CANONICAL = {"c_numrange": Range(Decimal("0.5"), None, "()")}


def fields(row: Any) -> dict[str, Any]:
    return {name: getattr(row, name) for name in row.__slots__}


def test_every_type_survives_the_round_trip(api: Api) -> None:
    values = one_of_each(api.models)
    row = api.everything.insert_everything(**values)
    assert fields(row) == values | CANONICAL | {"id": 1}
    assert [type(v) for v in fields(row).values()][1:] == [type(v) for v in values.values()]
    assert api.everything.get_everything(id=1) == row


def test_every_type_can_be_null_and_is_null_when_left_out(api: Api) -> None:
    row = api.everything.insert_everything()
    assert set(fields(row).values()) == {1, None}


def test_empty_arrays_and_ranges_survive(api: Api) -> None:
    values = {
        "c_ints": [],
        "c_texts": [],
        "c_moods": [],
        "c_jsonbs": [],
        "c_times": [],
        "c_int8range": Range(empty=True),
        "c_datemultirange": Multirange(),
        "c_jsonb": {},
        "c_bytea": b"",
    }
    row = api.everything.insert_everything(**values)
    assert {name: getattr(row, name) for name in values} == values


def test_arrays_may_hold_null(api: Api) -> None:
    values = {"c_ints": [None, 1], "c_texts": [None, "x"], "c_moods": [None, api.models.Mood.OK]}
    row = api.everything.insert_everything(**values)
    assert {name: getattr(row, name) for name in values} == values


def test_enums_come_and_go_as_members(api: Api) -> None:
    mood = api.models.Mood
    api.everything.insert_everything(c_mood=mood.EMPTY)
    api.everything.insert_everything(c_mood=mood.SAD)
    (row,) = api.everything.list_by_mood(moods=[mood.EMPTY, mood.OK])
    assert row.c_mood is mood.EMPTY
    assert api.everything.list_by_mood(moods=[]) == []
    odd = api.models.OddEnum
    found = api.everything.odd_enums(
        one=odd("x y"), many=list(odd), colors=[api.models.OtherColor.RED]
    )
    assert found.one is odd("x y")
    assert found.many == list(odd)
    assert all(isinstance(color, api.models.OtherColor) for color in found.colors)


def test_impossible_names_work(api: Api) -> None:
    values: dict[str, Any] = {
        "id": 1,
        "class_": "a",
        "def_": "b",
        "conn_": "c",
        "self": "d",
        "cls": "e",
        "uuid": uuid.UUID(int=5),
        "datetime": NOON,
        "models": api.models.Mood.SAD,
        "psycopg": "f",
        "typing": "g",
        "int": 2,
        "str": "h",
        "list": [3],
        "enum": api.models.Mood.OK,
        "dataclasses": "i",
        "params": "j",
        "rows": 4,
        "_runtime": "k",
        "None_": "l",
        "_1st": 5,
        "per_cent": 6,
        "with_space": 7,
        "camelCase": 8,
        "_dunder": 9,
        "größe": 10,
    }
    row = api.names.insert_list(**values)
    last = "a_column_name_as_long_as_postgresql_lets_a_column_name_ever_be_"
    assert fields(row) == {
        name.removesuffix("_") if name == "conn_" else name: value for name, value in values.items()
    } | {last: None}
    (short,) = api.names.list()
    assert short.models is api.models.Mood.SAD
    api.names.import_(id=1, name="x", json={"a": 1})
    assert api.names.models(id=1) == api.models.Model(1, "x", {"a": 1})
    assert api.names.uuid(id=1) == uuid.UUID(int=5)
    assert api.names.odd_table() == []


def test_texts_reach_the_server_as_they_were_written(api: Api) -> None:
    row = api.texts.nasty_text()
    assert fields(row) == {
        "percent": "100%",
        "backslash": "back\\slash \\n",
        "triple": '"""',
        "uni": "ü€😀",
        "holders": "%s %(x)s $1",
        "tabbed": "tab\t",
        "brace": "it's {x}",
    }
    text = "%s %% $1 \\ ''' \"\"\" {} \u2028"
    assert api.texts.echo(value=text) == text
    assert api.texts.echo_raw(value="") == '\\"""'


def test_one_returns_none_when_there_is_no_row(api: Api) -> None:
    assert api.people.get_person(id=1) is None


def test_exactly_one_refuses_none_and_several(api: Api, nasty: ModuleType) -> None:
    api.people.create_person(name="Ann", mood=api.models.Mood.OK)
    api.people.create_person(name="Ann", mood=api.models.Mood.OK)
    error = nasty._runtime.RowCountError
    with pytest.raises(error, match="require_person: exactly one row was promised, none came"):
        api.people.require_person(id=99)
    with pytest.raises(error, match="people_named: exactly one row was promised, 2 came"):
        api.people.people_named(name="Ann")
    assert api.people.require_person(id=1).name == "Ann"


def test_single_columns_are_scalars(api: Api) -> None:
    mood = api.models.Mood
    assert api.people.oldest_mood() is None
    assert api.people.moods_of_all() is None
    assert api.people.count_people() == 0
    assert api.people.list_names() == []
    api.people.create_person(name="Ann", mood=mood.OK)
    assert api.people.oldest_mood() is mood.OK
    assert api.people.moods_of_all() == [mood.OK]
    assert api.people.list_moods() == [mood.OK]
    assert api.people.list_names() == ["Ann"]
    assert api.people.count_people() == 1


def test_a_row_of_a_table_is_its_model_even_through_a_cte(api: Api) -> None:
    mood = api.models.Mood
    ann = api.people.create_person(name="Ann", mood=mood.OK)
    assert ann == api.models.Person(1, "Ann", mood.OK, None)
    assert api.people.move_person(id=1, mood=mood.SAD) == api.models.Person(
        1, "Ann", mood.SAD, None
    )
    assert api.people.list_people() == [api.models.Person(1, "Ann", mood.SAD, None)]


def test_embeds_of_an_outer_join_are_none(api: Api) -> None:
    ann = api.people.create_person(name="Ann", mood=api.models.Mood.OK)
    bob = api.people.create_person(name="Bob", mood=api.models.Mood.SAD, boss_id=1)
    first, second = api.people.list_with_boss()
    assert (first.p, first.b, first.loud) == (ann, None, "Ann!")
    assert (second.p, second.b) == (bob, ann)
    row, _ = api.people.list_with_address()
    assert (row.person, row.address) == (ann, None)
    assert api.people.get_with_optional(id=1).optional is None
    (same, _) = api.people.same_names()
    assert (same.id, same.id_2) == (1, 1)


def test_exec_execrows_and_execresult(api: Api) -> None:
    for name in "abc":
        api.people.create_person(name=name, mood=api.models.Mood.OK)
    assert api.people.rename_person(id=1) is None
    assert api.people.get_person(id=1).name == "a"
    api.people.rename_person(id=1, name="z")
    assert api.people.list_names() == ["z", "b", "c"]
    assert api.people.rename_all(name="same") == 3
    assert api.people.between(id=2, id_2=3) == [2, 3]
    cursor = api.people.delete_people(ids=[1, 3])
    assert isinstance(cursor, psycopg.RawCursor | psycopg.AsyncRawCursor)
    rows = cursor.fetchall()
    assert sorted(api.run(rows) if api.run else rows) == [(1,), (3,)]
    assert api.people.rename_all(name="rest") == 1


def test_another_schema_is_written_and_read(api: Api) -> None:
    red = api.models.OtherColor.RED
    api.people.add_status(code="x", color=red)
    assert api.people.list_statuses() == [api.models.OtherStatus("x", red)]


def test_batches_run_each_row_of_parameters(api: Api) -> None:
    mood = api.models.Mood
    hire, find = api.people.HireManyParams, api.people.FindManyParams
    assert api.people.hire_many(hire(name=name, mood=mood.OK) for name in ("a", "b", "c")) is None
    found = api.people.find_many([find(id=2), find(id=9), find(id=1)])
    assert [person and person.name for person in found] == ["b", None, "a"]
    like = api.people.NamesLikeParams
    patterns = [like(pattern="%", mood=mood.OK), like(pattern="z", mood=mood.OK)]
    assert api.people.names_like(patterns) == [["a", "b", "c"], []]
    assert api.people.find_many([]) == []
    assert api.people.hire_many([]) is None


def test_json_null_and_sql_null_are_told_apart(api: Api, plain: Any) -> None:
    put = api.measurements.put_document
    assert put(id=1, body={"a": 1}, kind="k").extra is None
    put(id=2, body=Jsonb(None), extra=Jsonb(None), kind="k")
    nulls = api.measurements.documents_with(part={"a": 1})
    assert [row.id for row in nulls] == [1]
    assert api.measurements.bodies() == [{"a": 1}, None]
    if api.conn.autocommit and not api.conn.pgconn.pipeline_status:
        query = "SELECT extra IS NULL, jsonb_typeof(extra) FROM documents ORDER BY id"
        assert plain.execute(query).fetchall() == [(True, None), (False, "null")]


def test_a_datetime_without_time_zone_is_refused(api: Api) -> None:
    naive = datetime.datetime(2024, 1, 1)
    with pytest.raises(ValueError, match="since: a timestamptz takes a datetime with a time zone"):
        api.measurements.list_measurements(since=naive)
    with pytest.raises(ValueError, match="times: "):
        api.measurements.at_times(times=[NOON, naive])
    assert api.measurements.at_times(times=[NOON]) == []


@pytest.mark.parametrize(
    ("time", "hours"), [(datetime.datetime.min, 14), (datetime.datetime.max, -12)]
)
def test_a_datetime_that_could_not_be_read_again_is_refused(
    api: Api, time: datetime.datetime, hours: int
) -> None:
    zone = datetime.timezone(datetime.timedelta(hours=hours))
    with pytest.raises(ValueError, match=r"since: .* is beyond the years 1 to 9999 in UTC"):
        api.measurements.list_measurements(since=time.replace(tzinfo=zone))
    assert api.measurements.list_measurements(since=time.replace(tzinfo=datetime.UTC)) == []


def test_nullable_aggregates_are_none(api: Api) -> None:
    row = api.measurements.newest()
    assert (row.newest, row.n, row.total) == (None, 0, Decimal(0))


@pytest.mark.parametrize("kind", ["transaction", "server_cursor"])
def test_nothing_is_committed_behind_the_callers_back(
    api: Api, plain: psycopg.Connection[tuple[Any, ...]]
) -> None:
    api.people.create_person(name="Ann", mood=api.models.Mood.OK)
    api.people.hire_many([api.people.HireManyParams(name="Bob", mood=api.models.Mood.OK)])
    api.people.hire_later([api.people.HireLaterParams(name="Cat", mood=api.models.Mood.OK)])
    assert api.people.count_people() == 3
    assert plain.execute("SELECT count(*) FROM people").fetchone() == (0,)
