"""The views that people read in psql stay fast on a long history."""

import pytest

from .explain import MODES

READINGS = [
    ("SELECT * FROM running_workflows", 50_000),
    ("SELECT * FROM failed_workflows LIMIT 20", 1_000),
    (
        "SELECT * FROM workflow_progress WHERE customer_id = %(customer)s "
        "ORDER BY workflow_id DESC LIMIT 20",
        1_000,
    ),
    ("SELECT * FROM workflow_progress WHERE workflow_id = %(run)s", 1_000),
    ("SELECT * FROM agent_workload", 10_000),
    ("SELECT * FROM workflow_stats", 5_000),
    ("SELECT * FROM recommendation_trace WHERE customer_id = %(customer)s LIMIT 20", 2_000),
    ("SELECT * FROM recommendation_trace WHERE recommendation_id = %(recommendation)s", 2_000),
    ("SELECT * FROM savings_by_month WHERE customer_id = %(customer)s", 50_000),
]
"""What is read, and how many rows at most that takes: the largest customer has 11,000
recommendations, and there are 500 open runs."""


@pytest.mark.parametrize(("query", "bound"), READINGS)
def test_a_view_reads_no_more_than_it_shows(query, bound, explainer, largest):
    values = {
        "customer": largest.customer,
        "run": largest.run("completed")["id"],
        "recommendation": largest.recommendation("completed")["id"],
    }
    for mode in MODES:
        rows, seen, _ = explainer.read(query, mode, values)
        assert rows
        assert not seen.scanned, seen.plan
        assert seen.rows <= bound, seen.plan
