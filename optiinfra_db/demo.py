"""The main job of the package, shown: record a workflow and read the history back.

A cost analysis of the sample metrics, step by step through the generated functions, and what an
operator sees of it: the board of all runs, and this one in detail.
"""

import hashlib
import json
import tempfile
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
    workflow_steps,
)
from optiinfra_db.generated.models import ArtifactType, RecommendationPriority, WorkflowType
from optiinfra_db.migrate import migrate
from optiinfra_db.seed import ATLAS, COST, seed

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
    # Before the run is created: one that cannot leave a file is not begun.
    folder = Path(tempfile.mkdtemp(dir=artifacts_dir))
    run = workflow_executions.create_workflow_execution(
        conn,
        customer_id=ATLAS,
        agent_id=COST,
        workflow_type=WorkflowType.COST_ANALYSIS,
        step_names=STEPS,
        input_data={"period": "last_30_days"},
        metadata={"trigger": "demo"},
    )
    first_step = workflow_executions.begin_workflow_execution(conn, customer_id=ATLAS, id=run.id)
    assert first_step is not None, "nobody else knows of the run yet"
    try:
        _do_steps(conn, first_step, folder.rename(artifacts_dir / str(run.id)))
    except BaseException as error:
        details = {"type": type(error).__name__, "message": str(error)}
        workflow_executions.fail_workflow_execution(
            conn, customer_id=ATLAS, id=run.id, attempt=run.attempt, error_details=details
        )
        raise
    return run.id


def _do_steps(conn: Connection, step: models.WorkflowStep, folder: Path) -> None:
    """Work through the plan of a run whose first step was started."""
    run_id = step.workflow_execution_id

    def advance(output: dict[str, object], *artifacts: dict[str, object]) -> None:
        """Complete the step, with what came of it and what it left, and go on to the next."""
        nonlocal step
        _, step = workflow_steps.advance_workflow_step(
            conn,
            customer_id=ATLAS,
            workflow_execution_id=run_id,
            id=step.id,
            retry_count=step.retry_count,
            output_data=output,
            artifacts=artifacts,
        )

    utilization = _latest(conn, "gpu_utilization_percent")
    monthly_cost = _latest(conn, "monthly_cost_usd")
    advance({"metrics": ["gpu_utilization_percent", "monthly_cost_usd"]})

    idle_percent = 100 - utilization
    advance({"utilization_percent": utilization, "idle_percent": idle_percent})

    savings = round(monthly_cost * idle_percent / 100 * 0.75, 2)
    advance({"monthly_cost_usd": monthly_cost, "potential_savings_usd": savings})

    recommendation = recommendations.create_recommendation(
        conn,
        customer_id=ATLAS,
        agent_id=COST,
        workflow_execution_id=run_id,
        type="rightsize_gpu",
        title=f"Release idle GPUs ({idle_percent:.0f} % of their time)",
        estimated_savings=Decimal(str(savings)),
        confidence_score=0.8,
        priority=RecommendationPriority.HIGH,
    )
    advance(
        {"recommendations": 1},
        _store(
            folder / "recommendation.json",
            json.dumps({"title": recommendation.title, "savings_usd": savings}, indent=2),
            artifact_type=ArtifactType.RECOMMENDATION,
            content_type="application/json",
        ),
    )

    report = _store(
        folder / "report.md",
        f"# Cost analysis\n\nGPUs are idle {idle_percent:.1f} % of the time. "
        f"{savings:,.2f} of {monthly_cost:,.2f} USD a month can be saved.\n",
        artifact_type=ArtifactType.REPORT,
        content_type="text/markdown",
    )
    workflow_executions.finish_workflow_execution(
        conn,
        customer_id=ATLAS,
        id=run_id,
        workflow_step_id=step.id,
        retry_count=step.retry_count,
        output_data={"potential_savings_usd": savings},
        step_output_data={"format": "markdown"},
        artifacts=[report],
    )


def _latest(conn: Connection, metric_name: str) -> float:
    metric = agent_metrics.get_latest_agent_metric(conn, agent_id=COST, metric_name=metric_name)
    assert metric is not None, "the sample data holds it"
    return metric.metric_value


def _store(
    path: Path, text: str, *, artifact_type: ArtifactType, content_type: str
) -> dict[str, object]:
    """Write a file, and return what is to be noted of it."""
    content = text.encode()
    path.write_bytes(content)
    return {
        "artifact_type": artifact_type,
        "artifact_name": path.name,
        "artifact_path": str(path),
        "artifact_size_bytes": len(content),
        "content_type": content_type,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


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
