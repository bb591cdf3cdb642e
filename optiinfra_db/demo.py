"""The main job of the package, shown: a cost analysis of the sample metrics, recorded."""

import json
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg

from optiinfra_db.connection import acting
from optiinfra_db.generated import agent_metrics, recommendations
from optiinfra_db.generated.models import ArtifactType, RecommendationPriority, WorkflowType
from optiinfra_db.seed import ATLAS, COST
from optiinfra_db.workflows import record_workflow

Connection = psycopg.Connection[Any]

ACTOR = "optiinfra-db demo"
STEPS = ["collect_metrics", "analyze_gpu_usage", "analyze_cost", "recommend", "write_report"]


def analyze_cost(conn: Connection, artifacts_dir: Path) -> UUID:
    """Do a small cost analysis of the sample customer, recording every step; return the run.

    Its files go into a folder of its own in `artifacts_dir`.
    """
    artifacts_dir.mkdir(parents=True, exist_ok=True)
    with record_workflow(
        conn,
        customer_id=ATLAS,
        agent_id=COST,
        workflow_type=WorkflowType.COST_ANALYSIS,
        steps=STEPS,
        input_data={"period": "last_30_days"},
        metadata={"trigger": "demo"},
        store=artifacts_dir,
        actor=ACTOR,
    ) as run:
        with run.step("collect_metrics") as step:
            utilization = _latest(conn, "gpu_utilization_percent")
            monthly_cost = _latest(conn, "monthly_cost_usd")
            step.output_data = {"metrics": ["gpu_utilization_percent", "monthly_cost_usd"]}

        with run.step("analyze_gpu_usage") as step:
            idle_percent = 100 - utilization
            step.output_data = {"utilization_percent": utilization, "idle_percent": idle_percent}

        with run.step("analyze_cost") as step:
            savings = round(monthly_cost * idle_percent / 100 * 0.75, 2)
            step.output_data = {"monthly_cost_usd": monthly_cost, "potential_savings_usd": savings}

        with run.step("recommend") as step:
            with acting(conn, ACTOR):
                recommendation = recommendations.create_recommendation(
                    conn,
                    customer_id=ATLAS,
                    agent_id=COST,
                    workflow_execution_id=run.id,
                    type="rightsize_gpu",
                    title=f"Release idle GPUs ({idle_percent:.0f} % of their time)",
                    estimated_savings=Decimal(str(savings)),
                    confidence_score=0.8,
                    priority=RecommendationPriority.HIGH,
                )
            content = {"title": recommendation.title, "savings_usd": savings}
            run.artifact(
                ArtifactType.RECOMMENDATION,
                "recommendation.json",
                data=json.dumps(content, indent=2).encode(),
                step=step,
            )
            step.output_data = {"recommendations": 1}

        with run.step("write_report") as step:
            report = (
                f"# Cost analysis\n\nGPUs are idle {idle_percent:.1f} % of the time. "
                f"{savings:,.2f} of {monthly_cost:,.2f} USD a month can be saved.\n"
            )
            run.artifact(
                ArtifactType.REPORT,
                "report.md",
                data=report.encode(),
                content_type="text/markdown",
                step=step,
            )
            step.output_data = {"format": "markdown"}
        run.output_data = {"potential_savings_usd": savings}
    return run.id


def _latest(conn: Connection, metric_name: str) -> float:
    metric = agent_metrics.get_latest_agent_metric(conn, agent_id=COST, metric_name=metric_name)
    assert metric is not None, "the sample data holds it"  # noqa: S101 -- what the type does not tell
    return metric.metric_value
