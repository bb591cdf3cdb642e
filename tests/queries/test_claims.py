"""Claiming runs, one or many, and completing many: each once, at the same cost for ever."""

import re
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from optiinfra_db import connect
from optiinfra_db.doctor import examine
from optiinfra_db.errors import IllegalTransition
from optiinfra_db.generated import agents, customers, workflow_executions
from optiinfra_db.generated.models import AgentType, WorkflowStatus, WorkflowType


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
def test_a_claim_goes_straight_to_the_oldest_pending_run(conn, plan):
    conn.execute("SET LOCAL session_replication_role = replica")  # no audit of what is only there
    conn.execute("INSERT INTO customers (name, email) VALUES ('a', 'a@example.com')")
    conn.execute("INSERT INTO agents (type, name, version) VALUES ('cost', 'a', '1')")
    conn.execute(
        "INSERT INTO workflow_executions "
        "(customer_id, agent_id, workflow_type, status, started_at, completed_at) "
        "SELECT customers.id, agents.id, 'cost_analysis', state.status, state.at, state.at "
        "FROM customers, agents, generate_series(1, 20000) AS n, "
        "LATERAL (SELECT CASE WHEN n % 100 = 0 THEN 'pending' ELSE 'completed' END"
        "::workflow_status AS status, CASE WHEN n % 100 != 0 THEN now() END AS at) AS state"
    )
    conn.execute("SET LOCAL session_replication_role = origin")
    conn.execute("ANALYZE workflow_executions")
    (agent_id,) = conn.execute("SELECT id FROM agents").fetchone()
    (oldest,) = conn.execute(
        "SELECT id FROM workflow_executions WHERE status = 'pending' ORDER BY id LIMIT 1"
    ).fetchone()

    conn.execute(f"SET LOCAL plan_cache_mode = {plan}")
    conn.execute(f"PREPARE claim AS {workflow_executions.CLAIM_WORKFLOW_EXECUTION}")
    explained = conn.execute(
        f"EXPLAIN (ANALYZE, TIMING OFF, COSTS OFF) EXECUTE claim ('{agent_id}')"
    )
    lines = "\n".join(line for (line,) in explained)

    assert "Index Scan using workflow_executions_agent_id_id_pending_idx" in lines
    assert not re.search("Seq Scan on workflow|Sort|Rows Removed", lines), lines
    assert conn.execute(
        "SELECT status FROM workflow_executions WHERE id = %s", [oldest]
    ).fetchone() == ("running",)


def keys(runs):
    return {
        "customer_ids": [run.customer_id for run in runs],
        "ids": [run.id for run in runs],
        "attempts": [run.attempt for run in runs],
    }


def statuses(db, runs):
    functions = db.workflow_executions
    return [
        functions.get_workflow_execution(customer_id=run.customer_id, id=run.id).status
        for run in runs
    ]


def test_the_oldest_runs_are_claimed_up_to_as_many_as_asked_for_whosever_they_are(db):
    agent = db.make_agent()
    runs = [db.make_run(agent=agent) for _ in range(5)]
    other = db.make_run()

    claimed = db.workflow_executions.claim_workflow_executions(agent_id=agent.id, max_rows=3)

    assert [run.id for run in claimed] == [run.id for run in runs[:3]]
    assert {run.status for run in claimed} == {WorkflowStatus.RUNNING}
    assert all(run.started_at == run.heartbeat_at is not None for run in claimed)
    assert claimed == [
        db.workflow_executions.get_workflow_execution(customer_id=run.customer_id, id=run.id)
        for run in runs[:3]
    ]
    rest = db.workflow_executions.claim_workflow_executions(agent_id=agent.id, max_rows=10)
    assert [run.id for run in rest] == [run.id for run in runs[3:]]
    assert db.workflow_executions.claim_workflow_executions(agent_id=agent.id, max_rows=10) == []
    assert statuses(db, [other]) == [WorkflowStatus.PENDING]


def test_what_is_past_its_deadline_is_not_claimed_with_others(db):
    agent = db.make_agent()
    db.make_run(agent=agent, deadline_at=datetime.now(UTC) - timedelta(hours=1))
    due = db.make_run(agent=agent, deadline_at=datetime.now(UTC) + timedelta(hours=1))

    claimed = db.workflow_executions.claim_workflow_executions(agent_id=agent.id, max_rows=10)

    assert [run.id for run in claimed] == [due.id]


def test_many_runs_are_completed_with_what_came_of_each(db):
    runs = [db.start_run(db.make_run(step_names=[])) for _ in range(3)]
    outputs = [{"n": 0}, None, {"n": 2}]

    completed = db.workflow_executions.complete_workflow_executions(
        **keys(runs), output_data=outputs
    )

    assert {(run.customer_id, run.id) for run in completed} == {
        (run.customer_id, run.id) for run in runs
    }
    rows = [
        db.workflow_executions.get_workflow_execution(customer_id=run.customer_id, id=run.id)
        for run in runs
    ]
    assert [row.output_data for row in rows] == [{"n": 0}, {}, {"n": 2}]
    assert all(row.completed_at >= row.started_at for row in rows)
    assert db.workflow_executions.complete_workflow_executions(**keys(runs)) == []


def test_only_those_that_run_are_completed_and_nothing_is_taken_for_another(db):
    functions = db.workflow_executions
    running, other = (db.start_run(db.make_run(step_names=[])) for _ in range(2))
    pending = db.make_run(step_names=[])
    cancelled = db.start_run(db.make_run(step_names=[]))
    functions.cancel_workflow_execution(
        customer_id=cancelled.customer_id, id=cancelled.id, reason="no longer wanted"
    )
    given = keys([running, pending, cancelled, other])
    given["attempts"][3] = 2  # of an executor that mixed up its runs
    given["customer_ids"].append(running.customer_id)
    given["ids"].append(uuid4())
    given["attempts"].append(1)

    completed = functions.complete_workflow_executions(**given)

    assert [run.id for run in completed] == [running.id]
    assert statuses(db, [running, pending, cancelled, other]) == [
        WorkflowStatus.COMPLETED,
        WorkflowStatus.PENDING,
        WorkflowStatus.CANCELLED,
        WorkflowStatus.RUNNING,
    ]
    theirs = keys([other]) | {"customer_ids": [running.customer_id]}
    assert functions.complete_workflow_executions(**theirs) == []


def test_no_run_is_completed_where_one_has_open_steps(db):
    done = db.start_run(db.make_run(step_names=[]))
    at_work = db.start_run(db.make_run())

    with db.refused(IllegalTransition):
        db.workflow_executions.complete_workflow_executions(**keys([done, at_work]))

    assert statuses(db, [done, at_work]) == [WorkflowStatus.RUNNING] * 2


def test_a_run_that_is_given_twice_is_completed_once(db):
    run = db.start_run(db.make_run(step_names=[]))

    completed = db.workflow_executions.complete_workflow_executions(**keys([run, run]))

    assert [row.id for row in completed] == [run.id]
    assert db.workflow_executions.complete_workflow_executions(**keys([])) == []


def test_workers_that_drain_a_queue_in_batches_do_each_run_once(database_url):
    """Beside others who complete the same runs, in another order, and who cancel some."""
    with connect(database_url) as conn:
        customer = customers.create_customer(
            conn, name="Ada", email="ada@example.com", api_key_hash=bytes(32)
        )
        agent = agents.upsert_agent(conn, type=AgentType.COST, name="cost", version="1")
        runs = [
            workflow_executions.create_workflow_execution(
                conn,
                customer_id=customer.id,
                agent_id=agent.id,
                workflow_type=WorkflowType.HEALTH_CHECK,
                step_names=[],
            )
            for _ in range(240)
        ]
    barrier = threading.Barrier(6)

    def drain(number):
        claimed, completed = [], []
        with connect(database_url) as conn:
            barrier.wait()
            while batch := workflow_executions.claim_workflow_executions(
                conn, agent_id=agent.id, max_rows=7
            ):
                claimed += [run.id for run in batch]
                if number == 0:
                    workflow_executions.cancel_workflow_execution(
                        conn, customer_id=customer.id, id=batch[0].id, reason="x"
                    )
                completed += workflow_executions.complete_workflow_executions(
                    conn, **keys(batch[::-1])
                )
                completed += workflow_executions.complete_workflow_executions(
                    conn, **keys([*runs[::-1], *runs])
                )
        return claimed, [run.id for run in completed]

    with ThreadPoolExecutor(6) as executor:
        drained = list(executor.map(drain, range(6)))

    claimed = [run_id for ids, _ in drained for run_id in ids]
    completed = [run_id for _, ids in drained for run_id in ids]
    assert sorted(claimed) == sorted(run.id for run in runs)
    assert len(completed) == len(set(completed))
    with connect(database_url) as conn:
        ended = workflow_executions.list_workflow_executions(
            conn, customer_id=customer.id, max_rows=1000
        )
        assert {run.id for run in ended if run.status == WorkflowStatus.COMPLETED} == set(completed)
        assert all(
            run.status in {WorkflowStatus.COMPLETED, WorkflowStatus.CANCELLED} for run in ended
        )
        assert examine(conn) == []


def test_a_claim_of_one_customer_takes_its_oldest_runs(db):
    agent, customer, other = db.make_agent(), db.make_customer(), db.make_customer()
    made = [db.make_run(customer, agent) for _ in range(3)]
    db.make_run(other, agent)
    db.make_run(customer, db.make_agent())

    def claim(max_rows):
        return db.workflow_executions.claim_customer_workflow_executions(
            customer_id=customer.id, agent_id=agent.id, max_rows=max_rows
        )

    assert [run.id for run in claim(2)] == [run.id for run in made[:2]]
    assert [run.id for run in claim(9)] == [made[2].id]
    assert claim(9) == []
