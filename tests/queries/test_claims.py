"""Claiming a run costs the same however long the history is."""

import re

import pytest

from optiinfra_db.generated import workflow_executions


@pytest.mark.parametrize("plan", ["force_custom_plan", "force_generic_plan"])
def test_a_claim_goes_straight_to_the_oldest_pending_run(conn, plan):
    conn.execute("SET LOCAL session_replication_role = replica")  # no audit of what is only there
    conn.execute(
        "INSERT INTO customers (name, email, api_key_hash) "
        "VALUES ('a', 'a@example.com', sha256(''))"
    )
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
