"""The main job of the package, shown: record a workflow and read the history back.

A cost analysis of the sample metrics, as an agent records it, and what an operator sees of it: the
board of all runs, and this one in detail.
"""

import json
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
from rich import box
from rich.console import Console, Group
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from optiinfra_db.connection import connect
from optiinfra_db.generated import (
    agent_metrics,
    customers,
    models,
    recommendations,
    workflow_executions,
)
from optiinfra_db.generated.models import ArtifactType, RecommendationPriority, WorkflowType
from optiinfra_db.migrate import migrate
from optiinfra_db.seed import ATLAS, COST, seed
from optiinfra_db.workflows import record_workflow

Connection = psycopg.Connection[Any]

STEPS = ["collect_metrics", "analyze_gpu_usage", "analyze_cost", "recommend", "write_report"]
STYLES = {
    "completed": "green",
    "running": "cyan",
    "pending": "dim",
    "failed": "red",
    "timeout": "red",
    "cancelled": "yellow",
    "retrying": "yellow",
    "skipped": "dim",
}


def run(url: str, psql_command: str, artifacts_dir: Path) -> None:
    """Migrate, seed, record a run and print what came of it.

    `psql_command` opens the database of `url` and is printed last; the run's files go into a folder
    of their own in `artifacts_dir`.
    """
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 120
    with console.status("Migrating the database") as status:
        applied = migrate(url, say=status.update).applied
    with connect(url, actor="optiinfra-db demo") as conn:
        with console.status("Writing the sample data") as status:
            seeded = seed(conn)
            status.update("Recording a cost analysis")
            run_id = _analyze_cost(conn, artifacts_dir)
        console.print(f"[bold]Migrated[/]: {len(applied) or 'no'} migrations were pending.")
        console.print(f"[bold]Seeded[/]: {str(seeded).splitlines()[0].rstrip('.:')}.")
        console.print(
            f"[bold]Recorded[/]: a cost analysis of {len(STEPS)} steps, each durable when it "
            f"was done: run {run_id}.",
            soft_wrap=True,
        )
        console.print("", _board(conn, console.width), "", _detail(conn, run_id), "", sep="\n")
    console.print("Look at it in psql ([bold]\\dt+[/] lists the tables, [bold]\\q[/] quits):")
    console.print(f"  {escape(psql_command)}", soft_wrap=True)


def _analyze_cost(conn: Connection, artifacts_dir: Path) -> UUID:
    """Do a small cost analysis of the sample customer, recording every step; return the run."""
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
    assert metric is not None, "the sample data holds it"
    return metric.metric_value


def _board(conn: Connection, width: int) -> Table:
    """Show the newest runs of each customer; in a narrow terminal on two lines each."""
    is_wide = width >= 110  # noqa: PLR2004
    table = Table(
        title="Workflows, the newest 10 of each customer",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        pad_edge=False,
    )
    for column in ("Type", "Customer", "Agent") if is_wide else ("Workflow",):
        table.add_column(column, no_wrap=True)
    table.add_column("Status", no_wrap=True)
    table.add_column("Steps", justify="right", no_wrap=True)
    table.add_column("Duration", justify="right", no_wrap=True)
    table.add_column("First failure", overflow="fold")
    for customer in customers.list_customers(conn, max_rows=10):
        for row in workflow_executions.list_workflow_progress(
            conn, customer_id=customer.id, max_rows=10
        ):
            names = [row.workflow_type, customer.name, row.agent_name]
            if not is_wide:
                names = [f"{row.workflow_type}\n{customer.name}, {row.agent_name}"]
            failure = f"{row.failed_step_name}: {row.failed_step_error}"
            table.add_row(
                *(escape(name) for name in names),
                Text(row.status, style=STYLES[row.status]),
                f"{row.steps_done}/{row.steps_total}",
                _duration(row.duration),
                escape(failure) if row.failed_step_name else "",
            )
    return table


def _detail(conn: Connection, run_id: UUID) -> Panel:
    """Show one run: its steps on a time line, and what they left."""
    detail = workflow_executions.get_workflow_detail(conn, customer_id=ATLAS, id=run_id)
    assert detail is not None
    run = detail.workflow_execution
    start, end = run.started_at, run.completed_at
    assert start is not None
    assert end is not None
    steps = Table(box=None, pad_edge=False)
    steps.add_column("Step", no_wrap=True)
    steps.add_column("Status")
    steps.add_column("Start", justify="right")
    steps.add_column("Took", justify="right")
    steps.add_column("Time line", no_wrap=True)
    for step in detail.steps:
        steps.add_row(
            f"{step.step_order} {step.step_name}",
            Text(step.status, style=STYLES[step.status]),
            f"+{_duration(step.started_at - start)}" if step.started_at else "",
            _took(step),
            _bar(step, start, end),
        )
    artifacts = Table(box=None, pad_edge=False)
    artifacts.add_column("Artifact", no_wrap=True)
    artifacts.add_column("Type")
    artifacts.add_column("Bytes", justify="right")
    artifacts.add_column("Path", overflow="fold")
    for artifact in detail.artifacts:
        artifacts.add_row(
            artifact.artifact_name,
            artifact.artifact_type,
            f"{artifact.artifact_size_bytes:,}",
            artifact.artifact_path,
        )
    outcome = f"Can save {run.output_data['potential_savings_usd']:,.2f} USD a month."
    return Panel(
        Group(steps, "", artifacts, "", outcome),
        title=f"{run.workflow_type} for {detail.customer.name} by {detail.agent.name}",
        title_align="left",
        subtitle=f"{run.status} in {_duration(end - start)}",
        subtitle_align="left",
    )


def _took(step: models.WorkflowStep) -> str:
    if step.started_at is None or step.completed_at is None:
        return ""
    return _duration(step.completed_at - step.started_at)


def _bar(step: models.WorkflowStep, start: datetime, end: datetime, width: int = 30) -> Text:
    """Draw when a step ran, as a part of the whole run."""
    if step.started_at is None:
        return Text()
    whole = max((end - start).total_seconds(), 1e-6)
    begin = min(int((step.started_at - start).total_seconds() / whole * width), width - 1)
    until = ((step.completed_at or end) - start).total_seconds() / whole * width
    return Text(" " * begin + "━" * max(round(until) - begin, 1), style=STYLES[step.status])


def _duration(duration: timedelta | None) -> str:
    """Say how long something took, in two units at most."""
    if duration is None:
        return ""
    seconds = duration.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:  # noqa: PLR2004
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h {minutes}m" if hours else f"{minutes}m {rest}s"
