"""COPY: streamed, binary where it can be, all or nothing."""

import datetime
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.types.range import Range

from .conftest import Api
from .test_execution import CANONICAL, NOON, fields, one_of_each


@pytest.fixture(params=["autocommit", "transaction", "dict_row", "own_adapters", "client_cursor"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_every_type_can_be_copied_as_text(api: Api) -> None:
    assert "(FORMAT text)" in api.everything.COPY_EVERYTHING
    values = one_of_each(api.models)
    params = api.everything.CopyEverythingParams
    assert api.everything.copy_everything([params(**values), params()]) == 2
    assert fields(api.everything.get_everything(id=1)) == values | CANONICAL | {"id": 1}
    assert set(fields(api.everything.get_everything(id=2)).values()) == {2, None}


def test_what_psycopg_knows_is_copied_in_binary(api: Api) -> None:
    assert "(FORMAT binary)" in api.everything.COPY_SCALARS
    params = api.everything.CopyScalarsParams
    values = one_of_each(api.models)
    values = {name: values[name] for name in params.__dataclass_fields__}
    empty: dict[str, Any] = {"c_ints": [], "c_texts": [], "c_jsonbs": [], "c_ranges": []}
    rows = [params(**values), params(), params(**empty)]
    assert api.everything.copy_scalars(iter(rows)) == 3
    row = fields(api.everything.get_everything(id=1))
    assert {name: row[name] for name in values} == values | CANONICAL
    row = fields(api.everything.get_everything(id=3))
    assert {name: row[name] for name in empty} == empty


def test_a_type_without_a_known_binary_form_is_copied_as_text(api: Api) -> None:
    rows = [api.everything.CopyPairsParams(c_pair="(1,x)", c_text="a\tb")]
    assert api.everything.copy_pairs(rows) == 1
    row = api.everything.get_everything(id=1)
    assert (row.c_pair, row.c_text) == ("(1,x)", "a\tb")


def measurement(api: Api, number: int, **changes: Any) -> Any:
    values: dict[str, Any] = {
        "sensor": f"s{number}",
        "taken_at": NOON + datetime.timedelta(seconds=number),
        "value": Decimal(number),
        "tags": {"n": number},
        "valid": Range(NOON, None) if number % 2 else None,
        "counts": [number, None],
        "mood": api.models.Mood.VALUE_1ST if number % 2 else None,
    }
    return api.measurements.CopyMeasurementsParams(**(values | changes))


def test_rows_are_streamed(api: Api) -> None:
    made = 0

    def rows() -> Iterator[Any]:
        nonlocal made
        for made in range(1, 1001):
            yield measurement(api, made)

    assert api.measurements.copy_measurements(rows()) == 1000
    assert made == 1000
    found = api.measurements.list_measurements(since=NOON)
    assert len(found) == 1000
    assert found[0].tags == {"n": 1}
    assert found[0].valid == Range(NOON, None)
    assert found[0].mood is api.models.Mood.VALUE_1ST
    assert api.measurements.copy_measurements([]) == 0


@pytest.mark.parametrize("flavour", ["async"])
def test_async_rows_are_taken(api: Api) -> None:
    async def rows() -> AsyncIterator[Any]:
        for number in range(3):
            yield measurement(api, number)

    assert api.measurements.copy_measurements(rows()) == 3


@pytest.mark.parametrize("bad", ["the iterable", "the value", "the time", "the server"])
def test_after_an_error_nothing_is_there_and_the_connection_works(api: Api, bad: str) -> None:
    def rows() -> Iterator[Any]:
        yield measurement(api, 1)
        yield measurement(api, 2)
        if bad == "the iterable":
            raise KeyError(bad)
        if bad == "the value":
            yield measurement(api, 3, value="not a number")
        elif bad == "the time":
            yield measurement(api, 3, taken_at=datetime.datetime(2024, 1, 1))
        else:
            yield measurement(api, 1)

    expected = {
        "the iterable": KeyError,
        "the value": (TypeError, AttributeError, psycopg.DataError),
        "the time": ValueError,
        "the server": psycopg.errors.UniqueViolation,
    }[bad]
    with pytest.raises(expected):  # type: ignore[arg-type]
        api.measurements.copy_measurements(rows())
    rollback = api.conn.rollback()
    if api.run:
        api.run(rollback)
    assert api.measurements.list_measurements(since=NOON) == []


def test_a_batch_with_an_error_changes_nothing(api: Api) -> None:
    params, mood = api.people.HireManyParams, api.models.Mood
    for bad in (params(name=None, mood=mood.OK), params(name=object(), mood=mood.OK)):
        with pytest.raises(psycopg.Error):
            api.people.hire_many([params(name="a", mood=mood.OK), bad])
        rollback = api.conn.rollback()
        if api.run:
            api.run(rollback)
        assert api.people.count_people() == 0
