import re
import statistics
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.errors import CheckViolation, ForeignKeyViolation

from optiinfra_db.errors import InvalidValue
from optiinfra_db.generated import agent_metrics
from optiinfra_db.generated.agent_metrics import CopyAgentMetricsParams
from optiinfra_db.generated.models import MetricType

AT = datetime(2026, 1, 31, 23, 0, tzinfo=UTC)
MONDAY = datetime(2001, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


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


def test_the_latest_value_of_each_metric_is_listed_by_name(db, agent):
    assert db.agent_metrics.list_latest_agent_metrics(agent_id=agent.id) == []
    db.agent_metrics.copy_agent_metrics(
        rows=[
            row
            for name, number in (("latency_ms", 3), ("cpu", 90), ("ä", 1))
            for row in rows(agent, number, metric_name=name)
        ]
        + rows(agent, 1, metric_name="cpu", recorded_at=AT - timedelta(days=90))
        + rows(agent, 3, metric_name="same", recorded_at=AT, metric_value=7.0)
        + rows(db.make_agent(), 5, metric_name="other")
    )

    listed = db.agent_metrics.list_latest_agent_metrics(agent_id=agent.id)

    assert [(row.metric_name, row.metric_value) for row in listed] == [
        ("cpu", 89.0),
        ("latency_ms", 2.0),
        ("same", 7.0),
        ("ä", 0.0),
    ]
    for row in listed:
        assert row == db.agent_metrics.get_latest_agent_metric(
            agent_id=agent.id, metric_name=row.metric_name
        )


def window(agent, bucket=HOUR, since=AT, until=AT + timedelta(days=1), **given):
    return {
        "agent_id": agent.id,
        "metric_name": "latency_ms",
        "since": since,
        "until": until,
        "bucket": bucket,
    } | given


def test_buckets_say_what_a_metric_came_to(db, agent):
    db.agent_metrics.copy_agent_metrics(
        rows=rows(agent, 121) + rows(agent, 9, metric_name="other") + rows(db.make_agent(), 9)
    )

    buckets = db.agent_metrics.list_agent_metric_buckets(
        **window(agent, since=AT + timedelta(minutes=30))
    )

    assert [(row.bucket_start, row.value_count) for row in buckets] == [
        (AT, 30),
        (AT + HOUR, 60),
        (AT + 2 * HOUR, 1),
    ]
    second = buckets[1]
    assert (second.minimum, second.average, second.maximum) == (60.0, 89.5, 119.0)
    assert (second.p50, second.p95) == pytest.approx((89.5, 116.05))
    assert (
        db.agent_metrics.list_agent_metric_buckets(**window(agent, until=AT + 2 * HOUR))
        == db.agent_metrics.list_agent_metric_buckets(**window(agent))[:2]
    )


def test_buckets_of_a_day_and_of_a_week_begin_at_midnight_and_on_mondays(db, agent):
    db.agent_metrics.copy_agent_metrics(rows=rows(agent, 1))

    for days, start in (
        (1, datetime(2026, 1, 31, tzinfo=UTC)),
        (7, datetime(2026, 1, 26, tzinfo=UTC)),
    ):
        (row,) = db.agent_metrics.list_agent_metric_buckets(
            **window(agent, bucket=timedelta(days=days))
        )
        assert row.bucket_start == start


def test_buckets_of_one_series_are_chosen_by_tags(db, agent):
    db.agent_metrics.copy_agent_metrics(
        rows=rows(agent, 3, tags={"model": "llama", "region": "eu"})
        + rows(agent, 5, tags={"model": "mixtral"}, metric_type=MetricType.COUNTER)
    )

    def counts(**given):
        listed = db.agent_metrics.list_agent_metric_buckets(**window(agent, **given))
        return [row.value_count for row in listed]

    assert counts() == counts(tags={}) == [8]
    assert counts(tags={"model": "llama"}) == [3]
    assert counts(tags={"model": "other"}) == []
    assert db.agent_metrics.list_agent_metric_rates(**window(agent, tags={"model": "llama"})) == []
    (row,) = db.agent_metrics.list_agent_metric_rates(**window(agent, tags={"model": "mixtral"}))
    assert row.increase == 4.0


def counted(agent, *values, every=timedelta(minutes=20), **given):
    """Return values of a counter, one every so often."""
    return [
        CopyAgentMetricsParams(
            **{
                "agent_id": agent.id,
                "metric_name": "latency_ms",
                "metric_type": MetricType.COUNTER,
                "tags": {},
                "recorded_at": AT + number * every,
                "metric_value": float(value),
            }
            | given
        )
        for number, value in enumerate(values)
    ]


def test_rates_of_a_counter_survive_its_restarts(db, agent):
    db.agent_metrics.copy_agent_metrics(rows=counted(agent, 100, 160, 200, 20, 20, 50, 5))

    rates = db.agent_metrics.list_agent_metric_rates(**window(agent))

    assert [(row.bucket_start, row.increase) for row in rates] == [
        (AT, 100.0),  # from the first value on
        (AT + HOUR, 50.0),  # restarted: 20, and then 30 more
        (AT + 2 * HOUR, 5.0),  # restarted again
    ]
    assert [row.increase_per_second for row in rates] == [100 / 3600, 50 / 3600, 5 / 3600]


def test_rates_keep_series_apart_and_add_them_up(db, agent):
    db.agent_metrics.copy_agent_metrics(
        rows=counted(agent, 1000, 1010, tags={"pod": "a"}) + counted(agent, 1, 4, tags={"pod": "b"})
    )

    (row,) = db.agent_metrics.list_agent_metric_rates(**window(agent))

    assert row.increase == 13.0


def test_what_is_no_growth_of_a_counter_has_no_rate(db, agent):
    """A first value, a gauge; and a counter that falls below 0 did not grow."""
    rates = db.agent_metrics.list_agent_metric_rates
    db.agent_metrics.copy_agent_metrics(rows=counted(agent, 7))
    assert rates(**window(agent)) == []

    db.agent_metrics.copy_agent_metrics(
        rows=counted(agent, 9, 12, metric_name="gauge", metric_type=MetricType.GAUGE)
        + counted(agent, 3, -2, metric_name="odd")
    )
    assert rates(**window(agent, metric_name="gauge")) == []
    (row,) = rates(**window(agent, metric_name="odd"))
    assert (row.increase, row.increase_per_second) == (0.0, 0.0)


@pytest.mark.parametrize("function", ["list_agent_metric_buckets", "list_agent_metric_rates"])
@pytest.mark.parametrize("bucket", [timedelta(0), -HOUR, "1 month", "1 year -1 day"])
def test_a_bucket_of_no_time_or_of_months_is_refused_by_name(db, agent, function, bucket):
    """Also where there is nothing to be put into it."""
    db.execute("SAVEPOINT refused")
    with pytest.raises(InvalidValue) as caught:
        getattr(db.agent_metrics, function)(**window(agent, bucket=bucket))
    db.execute("ROLLBACK TO SAVEPOINT refused")
    assert caught.value.field == "bucket"


samples = st.lists(
    st.tuples(
        st.integers(0, 7200),  # seconds after AT
        st.one_of(st.integers(0, 20), st.floats(-1e6, 1e6)),
        st.sampled_from([{}, {"pod": "a"}, {"pod": "b", "zone": 1}]),
        st.sampled_from(MetricType),
    ),
    max_size=40,
    unique_by=lambda sample: sample[0],
)
windows = st.tuples(st.integers(-60, 7200), st.integers(0, 7300)).map(sorted)
lengths = st.one_of(
    st.integers(1, 9000).map(lambda n: timedelta(seconds=n)),
    st.sampled_from([timedelta(milliseconds=1500), HOUR, timedelta(days=1), timedelta(days=400)]),
)
names = (f"metric_{number}" for number in count())


def recorded(db, agent, sampled, bounds):
    """Write samples; return the window, and those in it: when, value, tags and type, in order."""
    name = next(names)
    db.agent_metrics.copy_agent_metrics(
        rows=[
            CopyAgentMetricsParams(
                agent_id=agent.id,
                metric_name=name,
                recorded_at=AT + timedelta(seconds=seconds),
                metric_value=float(value),
                metric_type=metric_type,
                tags=tags,
            )
            for seconds, value, tags, metric_type in sampled
        ]
    )
    since, until = bounds
    found = sorted((sample for sample in sampled if since <= sample[0] < until), key=lambda s: s[0])
    return {
        "agent_id": agent.id,
        "metric_name": name,
        "since": AT + timedelta(seconds=since),
        "until": AT + timedelta(seconds=until),
    }, found


def bucket_of(seconds, bucket):
    at = AT + timedelta(seconds=seconds)
    return at - (at - MONDAY) % bucket


def for_all_samples(check):
    given(sampled=samples, bounds=windows, bucket=lengths)(
        settings(max_examples=60, deadline=None)(check)
    )()


def test_buckets_are_what_python_makes_of_the_values(db, agent):
    @for_all_samples
    def check(sampled, bounds, bucket):
        asked, found = recorded(db, agent, sampled, bounds)
        expected = defaultdict(list)
        for seconds, value, _, _ in found:
            expected[bucket_of(seconds, bucket)].append(float(value))

        listed = db.agent_metrics.list_agent_metric_buckets(**asked, bucket=bucket)

        assert [row.bucket_start for row in listed] == sorted(expected)
        for row in listed:
            values = sorted(expected[row.bucket_start])
            assert row.value_count == len(values)
            assert (row.minimum, row.maximum) == (values[0], values[-1])
            assert row.average == pytest.approx(statistics.fmean(values), abs=1e-6)
            place, share = divmod((len(values) - 1) * 0.95, 1)
            low, high = values[int(place)], values[min(int(place) + 1, len(values) - 1)]
            assert row.p50 == pytest.approx(statistics.median(values), abs=1e-6)
            assert row.p95 == pytest.approx(low + (high - low) * share, abs=1e-6)


def test_rates_are_what_python_makes_of_the_values(db, agent):
    @for_all_samples
    def check(sampled, bounds, bucket):
        asked, found = recorded(db, agent, sampled, bounds)
        expected, previous = defaultdict(float), {}
        for seconds, value, tags, metric_type in found:
            if metric_type is MetricType.COUNTER:
                series = str(tags)
                if series in previous:
                    is_restart = value < previous[series]
                    growth = max(value, 0) if is_restart else value - previous[series]
                    expected[bucket_of(seconds, bucket)] += growth
                previous[series] = value

        listed = db.agent_metrics.list_agent_metric_rates(**asked, bucket=bucket)

        assert [row.bucket_start for row in listed] == sorted(expected)
        for row in listed:
            assert row.increase == pytest.approx(expected[row.bucket_start], abs=1e-6)
            assert row.increase_per_second == row.increase / bucket.total_seconds() >= 0


@pytest.mark.parametrize("mode", ["force_generic_plan", "force_custom_plan"])
@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        (agent_metrics.LIST_AGENT_METRICS, "uuidv7(), 'cpu', {since}, {until}, NULL, 9"),
        (
            agent_metrics.LIST_AGENT_METRIC_BUCKETS,
            "'5 min', uuidv7(), 'cpu', {since}, {until}, '{{}}'",
        ),
        (
            agent_metrics.LIST_AGENT_METRIC_RATES,
            "'5 min', uuidv7(), 'cpu', {since}, {until}, '{{}}'",
        ),
    ],
)
def test_months_outside_of_the_window_are_not_read(conn, mode, query, parameters):
    (month,) = conn.execute("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')").fetchone()
    since = "date_trunc('month', now(), 'UTC')"
    parameters = parameters.format(since=since, until=f"{since} + interval '1 hour'")
    conn.execute(f"SET LOCAL plan_cache_mode = {mode}")
    conn.execute(f"PREPARE query AS {query}", prepare=False)
    plan = conn.execute(f"EXPLAIN EXECUTE query({parameters})", prepare=False).fetchall()
    conn.execute("DEALLOCATE query")

    read = set(re.findall(r" on agent_metrics_(\w+) ", "\n".join(line for (line,) in plan)))
    assert read == {month}
