"""The workflow: how busy the GPUs are, what that costs, and what to do about it."""

from decimal import Decimal

from optiinfra_db.generated import agent_metrics, recommendations
from optiinfra_db.generated.models import ArtifactType, WorkflowType
from optiinfra_db.workflows import Run, current_run, current_step, step, workflow

WANTED = ("gpu_utilization_percent", "monthly_cost_usd")


class NoMetricsError(Exception):
    """The agent has not reported what the analysis needs, or not yet."""


@step(retries=2, retry_on=NoMetricsError, backoff_seconds=0.1)
def collect_metrics() -> dict[str, float]:
    """Read the latest metrics, which may be a moment late."""
    run = current_run()
    metrics = {}
    for name in WANTED:
        found = agent_metrics.get_latest_agent_metric(
            run.conn, agent_id=run.agent_id, metric_name=name
        )
        if found is None:
            raise NoMetricsError(f"the agent has no metric {name}")
        metrics[name] = found.metric_value
    return metrics


@step
def estimate_savings(metrics: dict[str, float]) -> Decimal:
    """Return what could be saved, in USD a month, if three quarters of the idle time went."""
    idle = 1 - Decimal(str(metrics["gpu_utilization_percent"])) / 100
    cost = Decimal(str(metrics["monthly_cost_usd"]))
    return (cost * idle * Decimal("0.75")).quantize(Decimal("0.01"))


@step
def recommend(savings: Decimal) -> str:
    """Recommend it to the customer. With the id of the run, that adds no second one to this run."""
    run = current_run()
    recommendation = recommendations.create_recommendation(
        run.conn,
        customer_id=run.customer_id,
        id=run.id,
        agent_id=run.agent_id,
        workflow_execution_id=run.id,
        type="rightsize_gpu",
        title="Release idle GPUs",
        estimated_savings=savings,
        confidence_score=0.8,
    )
    return str(recommendation.id)


@step
def write_report(metrics: dict[str, float], savings: Decimal) -> None:
    """Leave a report."""
    current_run().artifact(
        ArtifactType.REPORT,
        "savings.md",
        data=f"# Savings\n\n{savings:,} USD a month: {metrics}\n".encode(),
        step=current_step(),
    )


@workflow(
    WorkflowType.COST_ANALYSIS, steps=[collect_metrics, estimate_savings, recommend, write_report]
)
def analyze_costs(run: Run) -> dict[str, str]:
    """Do the whole analysis; where nothing can be saved, the rest of the plan is skipped."""
    metrics = collect_metrics()
    savings = estimate_savings(metrics)
    if savings > 0:
        recommend(savings)
        write_report(metrics, savings)
    return {"savings_usd": str(savings)}
