"""The doctor finds what is wrong, each kind of it, and nothing in a healthy database."""

from datetime import UTC, datetime, timedelta

import pytest

from optiinfra_db.doctor import CHECKS, examine
from optiinfra_db.generated import workflow_executions, workflow_steps
from optiinfra_db.seed import ATLAS, COST, seed

ERROR = {"type": "Timeout", "message": "no answer"}


@pytest.fixture
def run(conn):
    """Make a run with a running step of its second attempt, in a database with sample data."""
    seed(conn)
    run = workflow_executions.create_workflow_execution(
        conn, customer_id=ATLAS, agent_id=COST, workflow_type="health_check", step_names=["a"]
    )
    workflow_executions.start_workflow_execution(conn, customer_id=ATLAS, id=run.id)
    of_run = {"customer_id": ATLAS, "workflow_execution_id": run.id}
    (step,) = workflow_steps.list_workflow_steps(conn, **of_run)
    workflow_steps.start_workflow_step(conn, **of_run, id=step.id)
    workflow_steps.fail_workflow_step(
        conn,
        **of_run,
        id=step.id,
        retry_count=0,
        retryable=True,
        error_details=ERROR,
        backoff_base_seconds=0,
    )
    workflow_steps.start_workflow_step(conn, **of_run, id=step.id)
    return run


def end(conn, run):
    workflow_executions.cancel_workflow_execution(conn, customer_id=ATLAS, id=run.id, reason="x")


def tamper(conn, statement):
    """Do what the triggers would refuse."""
    conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
    conn.execute("SET LOCAL session_replication_role = replica")
    assert conn.execute(statement).rowcount > 0
    conn.execute("SET LOCAL session_replication_role = origin")


def test_a_healthy_database_has_no_findings(conn, run):
    assert examine(conn) == []
    end(conn, run)
    workflow_executions.retry_workflow_execution(conn, customer_id=ATLAS, id=run.id)
    said = []
    assert examine(conn, say=said.append) == []
    assert len(said) == len(CHECKS)


DAMAGE = {
    "an open step in a run that is over": (
        "ended runs",
        "UPDATE workflow_steps SET status = 'pending', started_at = NULL, completed_at = NULL, "
        "error_details = NULL WHERE step_name = 'a'",
    ),
    "a status that changed without an event": (
        "audit",
        "UPDATE recommendations SET status = 'rejected' WHERE status = 'pending'",
    ),
    "a retry_count that changed without an event": (
        "audit",
        "UPDATE workflow_steps SET retry_count = 3 WHERE step_name = 'a'",
    ),
    "an event that is missing": (
        "gaps",
        "DELETE FROM events WHERE event_type = 'workflow_step.retrying'",
    ),
    "an event that follows no arrow": (
        "gaps",
        "INSERT INTO events (customer_id, event_type, subject_type, subject_id, data, created_at) "
        "SELECT customer_id, 'approval.pending', 'approval', id, "
        '\'{"from": "approved", "to": "pending"}\', now() - interval \'1 hour\' FROM approvals',
    ),
    "a retry that was not counted": (
        "gaps",
        "UPDATE events SET data = data || '{\"retry_count\": 0}' "
        "WHERE event_type = 'workflow_step.retrying'",
    ),
    "a start before the creation": (
        "times",
        "UPDATE workflow_executions SET started_at = created_at - interval '1 s' "
        "WHERE status = 'cancelled'",
    ),
    "an attempt that does not count on": (
        "times",
        "UPDATE workflow_executions SET attempt = 7 WHERE retried_from_id IS NOT NULL",
    ),
    "an event of another cluster": (
        "feed",
        "UPDATE events SET xact_id = '1000000000000' WHERE event_type = 'workflow_step.retrying'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_found(conn, run, damage):
    check, statement = DAMAGE[damage]
    end(conn, run)
    workflow_executions.retry_workflow_execution(conn, customer_id=ATLAS, id=run.id)

    tamper(conn, statement)

    findings = examine(conn)
    assert check in {finding.check for finding in findings}, findings
    later = datetime.now(UTC) + timedelta(hours=1)
    assert {finding.check for finding in examine(conn, since=later)} <= {"feed"}
    assert len(examine(conn, max_rows=1)) <= len(findings)


GUARDS = {
    "ALTER TABLE workflow_steps DISABLE TRIGGER workflow_steps_record_event": (
        "table workflow_steps",
        "trigger workflow_steps_record_event is disabled",
    ),
    "ALTER TABLE approvals ENABLE REPLICA TRIGGER approvals_enforce_transitions": (
        "table approvals",
        "trigger approvals_enforce_transitions is disabled",
    ),
    "DROP TRIGGER workflow_steps_check_added ON workflow_steps": (
        "table workflow_steps",
        "trigger workflow_steps_check_added is missing",
    ),
    "ALTER TABLE events_default DISABLE TRIGGER events_refuse_truncate": (
        "table events_default",
        "trigger events_refuse_truncate is disabled",
    ),
    "ALTER TABLE event_seals DISABLE TRIGGER USER; "
    "ALTER TABLE event_seals ENABLE TRIGGER event_seals_refuse_change": (
        "table event_seals",
        "trigger event_seals_refuse_truncate is disabled",
    ),
    "ALTER TABLE recommendations DISABLE ROW LEVEL SECURITY": (
        "table recommendations",
        "row-level security is off",
    ),
    "ALTER TABLE events_default NO FORCE ROW LEVEL SECURITY": (
        "table events_default",
        "row-level security is not forced",
    ),
    "CREATE POLICY mine ON customers USING (true)": (
        "table customers",
        "a policy of row-level security is missing, or there is another",
    ),
    "ALTER TABLE customers ADD CONSTRAINT customers_x_check CHECK (name != '') NOT VALID": (
        "table customers",
        "constraint customers_x_check is not validated",
    ),
    "UPDATE pg_index SET indisvalid = false "
    "WHERE indexrelid = 'workflow_executions_agent_id_id_pending_idx'::regclass": (
        "table workflow_executions",
        "index workflow_executions_agent_id_id_pending_idx is invalid",
    ),
}


@pytest.mark.parametrize("statement", GUARDS)
def test_a_guard_that_is_missing_is_found(conn, statement):
    conn.execute(statement)

    (finding,) = examine(conn)

    assert (finding.check, finding.subject, finding.problem) == ("guards", *GUARDS[statement])
