from datetime import UTC, datetime, timedelta

import pytest

from optiinfra_db import connect
from optiinfra_db.generated import agent_metrics
from optiinfra_db.generated.models import MetricType
from optiinfra_db.seed import COST

from .command import read_json, run


@pytest.fixture
def measured_url(own_url):
    """Make a gauge and a counter of two hours, a value a minute."""
    now = datetime.now(UTC)
    with connect(own_url) as conn:
        for minute in range(120):
            for name, kind, value in (
                ("load", MetricType.GAUGE, minute % 10),
                ("requests", MetricType.COUNTER, minute * 60),
            ):
                agent_metrics.create_agent_metric(
                    conn,
                    agent_id=COST,
                    metric_name=name,
                    metric_type=kind,
                    metric_value=value,
                    recorded_at=now - timedelta(minutes=120 - minute),
                )
    return own_url


def test_list_has_the_latest_of_each(measured_url):
    listed = {
        one["metric_name"]: one for one in read_json("metrics", "list", "cost-1", url=measured_url)
    }
    assert listed["requests"]["metric_value"] == 119 * 60
    assert {"load", "requests", "monthly_cost_usd"} <= listed.keys()


def test_a_gauge_is_plotted_with_averages_and_percentiles(measured_url):
    points = read_json("metrics", "plot", "cost-1", "load", "--since", "3h", url=measured_url)
    assert 20 < len(points) <= 61
    assert sum(point["values"] for point in points) == 120
    assert all(point["minimum"] <= point["average"] <= point["p95"] for point in points)
    told = run("metrics", "plot", "cost-1", "load", "--since", "3h", url=measured_url).stdout
    assert "load of cost-1, by 5m 0s" in told
    assert "average" in told
    assert "p95" in told
    assert any("⠀" < letter <= "⣿" for letter in told)
    assert all(len(line) <= 100 for line in told.splitlines())


def test_a_counter_is_plotted_as_its_rate(measured_url):
    args = ("metrics", "plot", "cost-1", "requests", "--since", "3h", "--bucket", "10m")
    points = read_json(*args, url=measured_url)
    assert points[3]["increase_per_second"] == pytest.approx(1)
    assert "per second" in run(*args, url=measured_url).stdout


def test_what_has_no_values_says_so(measured_url):
    result = run("metrics", "plot", "cost-1", "nothing", url=measured_url)
    assert result.returncode == 2
    assert "optiinfra-db metrics list cost-1" in result.stderr
    result = run(
        "metrics", "plot", "cost-1", "load", "--since", "30d", "--until", "29d", url=measured_url
    )
    assert (result.returncode, result.stdout) == (0, "")
    assert "look further back" in result.stderr
    for args in (["--since", "nonsense"], ["--since", "1h", "--until", "2h"]):
        assert run("metrics", "plot", "cost-1", "load", *args, url=measured_url).returncode == 2
