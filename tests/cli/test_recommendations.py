from datetime import UTC, datetime, timedelta

import pytest

from optiinfra_db import connect
from optiinfra_db.generated import approvals, optimizations, recommendations
from optiinfra_db.seed import ATLAS, COST

from .command import read_json, run

APPROVED = "01941f29-7c00-7000-8000-000000000031"
PENDING = "01941f29-7c00-7000-8000-000000000032"


def decide(url, command, id, *args):
    return run("recommendations", command, id, "--by", "alice", *args, url=url)


def answers(url, id):
    trace = read_json("recommendations", "trace", id, url=url)
    return [
        (one["status"], one["approved_by"], one["comment"]) for one in trace["approvals"]
    ], trace["recommendation"]["status"]


def test_list_is_narrowed_down(sample_url):
    listed = read_json("recommendations", "list", "--customer", "atlas", url=sample_url)
    assert [one["id"] for one in listed] == [PENDING, APPROVED]
    assert listed[1]["estimated_savings"] == 35000
    listed = read_json("recommendations", "list", "--status", "approved", url=sample_url)
    assert [one["id"] for one in listed] == [APPROVED]


@pytest.mark.parametrize(("command", "status"), [("approve", "approved"), ("reject", "rejected")])
def test_a_decision_keeps_who_and_why(own_url, command, status):
    result = decide(own_url, command, PENDING, "--comment", "as discussed")
    assert (result.returncode, result.stdout) == (0, f"{status} {PENDING}\n")
    assert answers(own_url, PENDING) == ([(status, "alice", "as discussed")], status)
    told = run("recommendations", "trace", PENDING, url=own_url).stdout
    assert "by alice: as discussed" in told


def test_the_open_question_is_answered_and_one_that_expired_is_taken_back(own_url):
    with connect(own_url) as conn:
        asked = approvals.create_approval(conn, customer_id=ATLAS, recommendation_id=PENDING)
    decide(own_url, "approve", PENDING)
    with connect(own_url) as conn:
        answered = approvals.get_approval(conn, customer_id=ATLAS, id=asked.id)
        assert answered.approved_by == "alice"
        other = recommendations.create_recommendation(
            conn, customer_id=ATLAS, agent_id=COST, type="x", title="Another"
        )
        approvals.create_approval(
            conn,
            customer_id=ATLAS,
            recommendation_id=other.id,
            expires_at=datetime.now(UTC) + timedelta(milliseconds=50),
        )
        conn.execute("SELECT pg_sleep(0.1)")
    assert decide(own_url, "reject", str(other.id)).returncode == 0
    assert answers(own_url, str(other.id)) == ([("rejected", "alice", "")], "rejected")


def test_a_second_decision_is_refused_and_changes_nothing(own_url):
    decide(own_url, "reject", PENDING)
    before = answers(own_url, PENDING)
    for command in ("approve", "reject"):
        result = decide(own_url, command, PENDING)
        assert (result.returncode, result.stdout) == (4, "")
        assert f"is rejected, and cannot be {command}" in result.stderr
    assert answers(own_url, PENDING) == before


def test_what_was_approved_can_still_be_rejected(own_url):
    assert decide(own_url, "approve", APPROVED).returncode == 4
    assert decide(own_url, "reject", APPROVED).returncode == 0


def test_trace_tells_it_to_the_saving(own_url):
    with connect(own_url) as conn:
        (queued,) = optimizations.list_recommendation_optimizations(
            conn, customer_id=ATLAS, recommendation_id=APPROVED
        )
        optimizations.start_optimization(conn, customer_id=ATLAS, id=queued.id)
        optimizations.complete_optimization(
            conn, customer_id=ATLAS, id=queued.id, actual_savings=28000
        )
    told = run("recommendations", "trace", APPROVED, url=own_url).stdout
    for text in (
        "Release 4 idle GPUs  completed",
        "run 01941f29-7c00-7000-8000-000000000021 by cost-1",
        "proposed, to save $35,000.00 a month",
        "by cfo@atlas.example",
        "Saves $28,000.00 a month, 80.0% of what was predicted.",
    ):
        assert text in told
    (atlas, _) = read_json("savings", url=own_url)
    assert (atlas["predicted_savings"], atlas["realised_savings"]) == (50000, 28000)
    told = run("savings", "--customer", "atlas", url=own_url).stdout
    assert "$28,000.00" in told
    assert told.count("█") > 40
