from datetime import UTC, datetime, timedelta

import pytest
from psycopg.errors import CheckViolation, ForeignKeyViolation

from optiinfra_db.generated.agent_metrics import CopyAgentMetricsParams
from optiinfra_db.generated.models import MetricType

AT = datetime(2026, 1, 31, 23, 0, tzinfo=UTC)


@pytest.fixture
def agent(db):
    return db.make_agent()


def rows(agent, number, **given):
    values = {
        "agent_id": agent.id,
        "metric_name": "latency_ms",
        "metric_type": MetricType.HISTOGRAM,
        "tags": {"model": "llama"},
    }
    return [
        CopyAgentMetricsParams(
            **values
            | {"recorded_at": AT + timedelta(minutes=minute), "metric_value": float(minute)}
            | given
        )
        for minute in range(number)
    ]


def test_an_appended_value_is_read_back_with_defaults(db, agent):
    made = db.agent_metrics.create_agent_metric(
        agent_id=agent.id, metric_name="cpu", metric_value=0.1
    )

    assert (made.metric_value, made.metric_type, made.tags) == (0.1, MetricType.GAUGE, {})
    latest = db.agent_metrics.get_latest_agent_metric(agent_id=agent.id, metric_name="cpu")
    assert latest == made
    assert db.agent_metrics.get_latest_agent_metric(agent_id=agent.id, metric_name="other") is None


def test_many_values_are_copied_and_paged_over_months(db, agent):
    assert db.agent_metrics.copy_agent_metrics(rows=rows(agent, 120)) == 120

    listed = []
    until, before_id = AT + timedelta(days=1), None
    while page := db.agent_metrics.list_agent_metrics(
        agent_id=agent.id,
        metric_name="latency_ms",
        since=AT + timedelta(minutes=10),
        until=until,
        before_id=before_id,
        max_rows=50,
    ):
        listed += page
        until, before_id = page[-1].recorded_at, page[-1].id
    assert [row.metric_value for row in listed] == [float(n) for n in range(119, 9, -1)]
    assert listed[0].metric_type is MetricType.HISTOGRAM
    assert listed[0].tags == {"model": "llama"}


def test_values_of_one_moment_are_paged_without_gaps(db, agent):
    db.agent_metrics.copy_agent_metrics(rows=rows(agent, 7, recorded_at=AT))

    values = {"agent_id": agent.id, "metric_name": "latency_ms", "since": AT, "max_rows": 3}
    page = listed = db.agent_metrics.list_agent_metrics(**values, until=AT + timedelta(minutes=1))
    while len(page) == 3:
        page = db.agent_metrics.list_agent_metrics(**values, until=AT, before_id=page[-1].id)
        listed = listed + page
    assert len({row.id for row in listed}) == len(listed) == 7
    assert db.agent_metrics.list_agent_metrics(**values, until=AT) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_value_that_is_no_number_is_refused_with_all_that_came_with_it(db, agent, value):
    bad = rows(agent, 3)[:2] + rows(agent, 1, metric_value=value)

    with db.refused(CheckViolation, "agent_metrics_metric_value_check"):
        db.agent_metrics.copy_agent_metrics(rows=bad)
    assert (
        db.agent_metrics.get_latest_agent_metric(agent_id=agent.id, metric_name="latency_ms")
        is None
    )


def test_a_metric_of_an_unknown_agent_is_refused(db):
    with db.refused(ForeignKeyViolation):
        db.agent_metrics.copy_agent_metrics(rows=rows(db.make_customer(), 1))
