"""The views that people read in psql stay fast on a long history."""

import pytest

from .explain import MODES

READINGS = [
    ("SELECT * FROM running_workflows", 7_000, 7_000),
    ("SELECT * FROM failed_workflows LIMIT 20", 500, 600),
    ("SELECT * FROM failed_workflows WHERE customer_id = %(customer)s LIMIT 20", 10_000, 15_000),
    (
        "SELECT * FROM workflow_progress WHERE customer_id = %(customer)s "
        "ORDER BY workflow_id DESC LIMIT 20",
        800,
        700,
    ),
    ("SELECT * FROM workflow_progress WHERE workflow_id = %(run)s", 100, 500),
    ("SELECT * FROM agent_workload", 1_500, 1_200),
    ("SELECT * FROM workflow_stats", 3_000, 3_000),
    (
        "SELECT * FROM recommendation_trace WHERE customer_id = %(customer)s "
        "ORDER BY recommendation_id DESC LIMIT 20",
        500,
        1_000,
    ),
    (
        "SELECT * FROM recommendation_trace WHERE customer_id = %(customer)s "
        "ORDER BY created_at DESC LIMIT 20",
        500,
        1_000,
    ),
    ("SELECT * FROM recommendation_trace WHERE recommendation_id = %(recommendation)s", 100, 500),
    ("SELECT * FROM savings_by_month WHERE customer_id = %(customer)s", 30_000, 80_000),
]
"""What is read, and how many rows and pages at most that takes, about twice of what it did once:
the largest customer has 11,000 recommendations, and there are 500 open runs and 16,000 failed."""


@pytest.mark.parametrize(("query", "rows_bound", "buffers_bound"), READINGS)
def test_a_view_reads_little_more_than_it_shows(
    query, rows_bound, buffers_bound, explainer, largest
):
    values = {
        "customer": largest.customer,
        "run": largest.run("completed")["id"],
        "recommendation": largest.recommendation("completed")["id"],
    }
    for mode in MODES:
        rows, seen, _ = explainer.read(query, mode, values)
        assert rows
        assert not seen.scanned, seen.plan
        assert seen.rows <= rows_bound, seen.plan
        assert seen.buffers <= buffers_bound, seen.plan
