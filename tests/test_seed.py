"""The sample data is what it says, and seeding again changes nothing."""

from decimal import Decimal

import pytest

from optiinfra_db import connect
from optiinfra_db.errors import AlreadyExists
from optiinfra_db.generated import (
    agent_capabilities,
    agent_configs,
    agent_states,
    optimizations,
    recommendations,
    workflow_executions,
)
from optiinfra_db.generated.models import (
    OptimizationStatus,
    RecommendationStatus,
    StepStatus,
    WorkflowStatus,
)
from optiinfra_db.seed import (
    ATLAS,
    COST,
    COST_RUN,
    INDIE,
    NIMBUS,
    OPTIMIZATION,
    PERFORMANCE,
    QUALITY_RUN,
    RIGHTSIZE,
    TUNING_RUN,
    seed,
)

ROWS = {
    "customers": 3,
    "agents": 5,
    "events": 3,
    "recommendations": 3,
    "approvals": 1,
    "optimizations": 1,
    "agent_configs": 6,
    "agent_states": 4,
    "agent_capabilities": 6,
    "agent_metrics": 6,
    "workflow_executions": 3,
    "workflow_steps": 12,
    "workflow_artifacts": 6,
}


def contents(conn):
    return {
        table: sorted(conn.execute(f"SELECT t::text FROM {table} AS t").fetchall())
        for table in ROWS
    }


def test_seeding_again_changes_nothing_and_says_so(database_url):
    with connect(database_url) as conn:
        report = seed(conn)
        assert dict(report.written) == ROWS
        assert str(report).startswith(f"Wrote {sum(ROWS.values())} rows of sample data:\n")
        first = contents(conn)
        audited = conn.execute("SELECT count(*) FROM events WHERE data ? 'from'").fetchone()[0]
        assert {table: len(rows) for table, rows in first.items()} == ROWS | {
            "events": ROWS["events"] + audited
        }
        assert audited >= sum(
            ROWS[table]
            for table in ("workflow_executions", "recommendations", "approvals", "optimizations")
        )

        report = seed(conn)
        assert (report.written.total(), dict(report.found)) == (0, ROWS)
        assert (
            str(report) == f"Nothing to do: all {sum(ROWS.values())} rows of sample data are there."
        )
        assert contents(conn) == first


def test_seeding_writes_what_is_missing(conn):
    seed(conn)
    conn.execute("DELETE FROM workflow_executions WHERE id = %s", [QUALITY_RUN])
    conn.execute("DELETE FROM agent_metrics")

    report = seed(conn)

    assert dict(report.written) == {
        "workflow_executions": 1,
        "workflow_steps": 3,
        "workflow_artifacts": 2,
        "agent_metrics": ROWS["agent_metrics"],
    }


def test_seeding_that_fails_leaves_nothing(database_url):
    with connect(database_url) as conn:
        conn.execute("INSERT INTO customers (name, email) VALUES ('x', 'ML-infra@atlas.example')")
        with pytest.raises(AlreadyExists):
            seed(conn)
        assert conn.execute("SELECT count(*) FROM customers").fetchone() == (1,)
        assert conn.execute("SELECT count(*) FROM agents").fetchone() == (0,)


def test_the_scenarios_are_told_in_full(conn):
    seed(conn)

    completed = workflow_executions.get_workflow_detail(conn, customer_id=ATLAS, id=COST_RUN)
    run = completed.workflow_execution
    assert run.status is WorkflowStatus.COMPLETED
    assert 14 * 60 <= (run.completed_at - run.started_at).total_seconds() <= 16 * 60
    assert run.output_data == {
        "total_monthly_cost_usd": 120000,
        "potential_savings_usd": 60000,
        "savings_percent": 50,
        "confidence": 0.92,
    }
    assert [step.step_name for step in completed.steps] == [
        "collect_metrics",
        "analyze_gpu_usage",
        "analyze_storage",
        "generate_recommendations",
        "generate_report",
    ]
    sizes = sorted(artifact.artifact_size_bytes for artifact in completed.artifacts)
    assert sizes == [45_821, 156_789, 2_458_624]

    running = workflow_executions.get_workflow_detail(conn, customer_id=NIMBUS, id=TUNING_RUN)
    assert running.workflow_execution.status is WorkflowStatus.RUNNING
    assert [step.status for step in running.steps] == [
        StepStatus.COMPLETED,
        StepStatus.COMPLETED,
        StepStatus.RUNNING,
        StepStatus.PENDING,
    ]
    assert len(running.artifacts) == 1
    state = agent_states.get_agent_state(conn, agent_id=PERFORMANCE)
    assert state.current_workflow_id == TUNING_RUN

    failed = workflow_executions.get_workflow_detail(conn, customer_id=INDIE, id=QUALITY_RUN)
    assert failed.workflow_execution.status is WorkflowStatus.FAILED
    assert failed.workflow_execution.error_details == failed.steps[2].error_details
    assert set(failed.steps[2].error_details) == {"type", "message", "step", "retryable"}
    assert len(failed.artifacts) == 2

    approved = recommendations.get_recommendation(conn, customer_id=ATLAS, id=RIGHTSIZE)
    assert approved.status is RecommendationStatus.APPROVED
    assert approved.estimated_savings == Decimal("35000.00")
    optimization = optimizations.get_optimization(conn, customer_id=ATLAS, id=OPTIMIZATION)
    assert optimization.status is OptimizationStatus.QUEUED

    configs = agent_configs.list_agent_configs(conn, agent_id=COST)
    assert len({config.config_type for config in configs}) == 5
    assert len(agent_capabilities.list_agent_capabilities(conn, agent_id=COST)) == 2
