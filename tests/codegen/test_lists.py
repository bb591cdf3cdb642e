"""Rows within rows, and classes that queries share."""

import datetime
from decimal import Decimal
from typing import Any

import pytest
from psycopg.types.range import Range

from .conftest import Api
from .test_execution import NOON


@pytest.fixture(params=["autocommit", "transaction", "own_adapters", "server_cursor", "prepared"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def measured(api: Api) -> list[Any]:
    """Write measurements with and without what may be NULL."""
    params = api.measurements.CopyMeasurementsParams
    rows = [
        params(
            sensor='a "quoted", {braced} (sensor) \\ é',
            taken_at=NOON,
            value=Decimal("1.50"),
            tags={"n": [1, None, "x"]},
            valid=Range(NOON, NOON + datetime.timedelta(hours=1)),
            counts=[1, None, 3],
            mood=api.models.Mood.VALUE_1ST,
        ),
        params(sensor="b", taken_at=NOON, value=Decimal("NaN"), tags=[]),
    ]
    assert api.measurements.copy_measurements(rows) == 2
    return rows


def test_rows_of_another_table_come_as_its_models(api: Api, measured: list[Any]) -> None:
    api.measurements.put_document(id=1, body={"x": 1}, kind="b")

    history = api.measurements.history()

    assert history.total == 2
    assert history.measured[0] == api.measurements.list_measurements(since=NOON)[0]
    first, second = history.measured
    assert (first.valid, first.counts) == (measured[0].valid, [1, None, 3])
    assert first.mood is api.models.Mood.VALUE_1ST
    assert first.taken_at.tzinfo is not None
    assert (second.valid, second.counts, second.mood) == (None, None, None)
    assert second.value.is_nan()
    assert [(row.id, row.body, row.extra) for row in history.noted] == [(1, {"x": 1}, None)]


def test_no_rows_of_another_table_are_an_empty_list(api: Api) -> None:
    history = api.measurements.history()

    assert (history.total, history.measured, history.noted) == (0, [], [])


def test_queries_may_share_the_class_of_their_rows(api: Api, measured: list[Any]) -> None:
    forward, backward = api.measurements.list_briefly(), api.measurements.list_briefly_backwards()

    assert forward == backward[::-1]
    assert {type(row) for row in forward + backward} == {api.measurements.MeasurementBrief}
    assert forward[0].mood is api.models.Mood.VALUE_1ST
