"""The workflow, in a transaction that is rolled back: nothing to clean up."""

from decimal import Decimal
from pathlib import Path

import pytest

from cost_agent.analysis import NoMetricsError, analyze_costs, estimate_savings
from optiinfra_db.generated import (
    agent_metrics,
    recommendations,
    workflow_artifacts,
    workflow_executions,
)
from optiinfra_db.generated.models import MetricType, WorkflowStatus


@pytest.fixture
def customer(make_customer):
    return make_customer()


@pytest.fixture
def agent(make_agent):
    return make_agent(type="cost")


def report(conn, agent, **metrics):
    for name, value in metrics.items():
        agent_metrics.create_agent_metric(
            conn,
            agent_id=agent.id,
            metric_name=name,
            metric_value=value,
            metric_type=MetricType.GAUGE,
        )


def runs_of(conn, customer):
    return workflow_executions.list_workflow_executions(conn, customer_id=customer.id, max_rows=9)


def test_idle_gpus_cost_three_quarters_of_their_time():
    metrics = {"gpu_utilization_percent": 50.0, "monthly_cost_usd": 1000.0}
    assert estimate_savings(metrics) == Decimal("375.00")


def test_a_recommendation_and_a_report_come_of_idle_gpus(
    optiinfra_db, customer, agent, tmp_path, monkeypatch
):
    monkeypatch.setenv("OPTIINFRA_ARTIFACTS_URL", str(tmp_path))
    report(optiinfra_db, agent, gpu_utilization_percent=50, monthly_cost_usd=1000)

    output = analyze_costs(optiinfra_db, customer_id=customer.id, agent_id=agent.id)

    assert output == {"savings_usd": "375.00"}
    (run,) = runs_of(optiinfra_db, customer)
    (recommended,) = recommendations.list_workflow_recommendations(
        optiinfra_db, customer_id=customer.id, workflow_execution_id=run.id
    )
    assert recommended.estimated_savings == 375
    (artifact,) = workflow_artifacts.list_workflow_artifacts(
        optiinfra_db, customer_id=customer.id, workflow_execution_id=run.id
    )
    assert "375.00 USD a month" in Path(artifact.artifact_path).read_text()


def test_busy_gpus_are_left_alone(optiinfra_db, customer, agent):
    report(optiinfra_db, agent, gpu_utilization_percent=100, monthly_cost_usd=1000)

    analyze_costs(optiinfra_db, customer_id=customer.id, agent_id=agent.id)

    (run,) = runs_of(optiinfra_db, customer)
    detail = workflow_executions.get_workflow_detail(
        optiinfra_db, customer_id=customer.id, id=run.id
    )
    assert [step.status for step in detail.steps] == [
        "completed",
        "completed",
        "skipped",
        "skipped",
    ]


def test_without_metrics_the_run_fails_in_the_end(optiinfra_db, customer, agent):
    with pytest.raises(NoMetricsError):
        analyze_costs(optiinfra_db, customer_id=customer.id, agent_id=agent.id)

    (run,) = runs_of(optiinfra_db, customer)
    assert run.status is WorkflowStatus.FAILED
