"""Runs and reports made by hand, as the pages are to show them."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from uuid import UUID

from optiinfra_db import shapes
from optiinfra_db.generated.models import (
    AgentStatus,
    AgentType,
    ArtifactType,
    RecommendationPriority,
    RecommendationStatus,
    StepStatus,
    WorkflowStatus,
    WorkflowType,
)

T0 = datetime(2026, 3, 2, 9, 0, tzinfo=UTC)
MONTH = T0.date().replace(day=1)
NOW = T0 + timedelta(hours=1)
NASTY = [
    "<script>alert(1)</script>",
    "\u202egnp.exe\u202c \u2066x",
    "W" * 10_000,
    "two\nlines\tand a\x07bell",
    "👩‍👩‍👧 family 🚀",
    "datum.x; url(http://example.org/a.png)",
    "https://example.org/{{ 7*7 }}",
    "\"><img src=x onerror=alert(1)>' & ]]> -->",
    "</style></title></svg><h1>",
]


def uid(number: int) -> UUID:
    return UUID(int=0x01951F297C0070008000000000000000 + number)


def span(kind, attempt, start, end, *ended_in):
    """Make a span of seconds after T0, that ended in a status and an error."""
    status, error = (*ended_in, None, None)[:2]
    return shapes.Span(
        kind=kind,
        attempt=attempt,
        started_at=T0 + timedelta(seconds=start),
        ended_at=None if end is None else T0 + timedelta(seconds=end),
        status=status,
        error=error,
    )


def step(order=1, name="collect", status=StepStatus.COMPLETED, spans=None, **values):
    if spans is None:
        spans = [span("running", 1, (order - 1) * 10, order * 10, status)]
    ran = [one for one in spans if one.kind == "running"]
    last = ran[-1] if ran else None
    ended = last.ended_at if last else None
    return shapes.Step.model_validate(
        {
            "id": uid(1000 + order),
            "step_order": order,
            "step_name": name,
            "status": status,
            "retry_count": max(len(ran) - 1, 0),
            "max_retries": 3,
            "next_attempt_at": None,
            "started_at": last.started_at if last else None,
            "completed_at": ended,
            "duration_seconds": (ended - last.started_at).total_seconds() if ended else None,
            "spans": spans,
            "input_data": {},
            "output_data": {},
            "error_details": None,
            **values,
        }
    )


def run(steps=(), status=WorkflowStatus.COMPLETED, seconds=100.0, **values):
    """Make a run that took so many seconds; one that was started lasts where they are None."""
    ended = None if seconds is None else T0 + timedelta(seconds=seconds)
    return shapes.Workflow.model_validate(
        {
            "id": uid(1),
            "customer_id": uid(2),
            "customer": "Atlas Robotics",
            "agent_id": uid(3),
            "agent": "cost-1",
            "agent_type": AgentType.COST,
            "workflow_type": WorkflowType.COST_ANALYSIS,
            "status": status,
            "attempt": 1,
            "retried_from_id": None,
            "created_at": T0 - timedelta(seconds=3),
            "started_at": T0,
            "heartbeat_at": T0,
            "completed_at": ended,
            "deadline_at": None,
            "waited_seconds": 3.0,
            "duration_seconds": seconds,
            "input_data": {},
            "output_data": {},
            "error_details": None,
            "metadata": {},
            "steps_done": sum(one.status == "completed" for one in steps),
            "steps": list(steps),
            "artifacts": [],
            "recommendations": [],
            "attempts": [],
            "timeline": [],
            **values,
        }
    )


def attempt(number, status, id=None):
    return shapes.Attempt(
        id=id or uid(10 + number),
        attempt=number,
        status=status,
        created_at=T0,
        started_at=T0,
        completed_at=None,
    )


def artifact(name="report.md", path="s3://reports/atlas/report.md"):
    return shapes.Artifact(
        id=uid(20),
        customer_id=uid(2),
        workflow_execution_id=uid(1),
        workflow_step_id=None,
        artifact_type=ArtifactType.REPORT,
        artifact_name=name,
        artifact_path=path,
        artifact_size_bytes=48_213,
        content_type="text/markdown",
        sha256="ab12" * 16,
        created_at=T0,
    )


def recommendation(title="Move batch inference to spot nodes", type="spot_migration"):
    return shapes.RecommendationLine(
        id=uid(30),
        customer_id=uid(2),
        agent_id=uid(3),
        workflow_execution_id=uid(1),
        type=type,
        title=title,
        description="",
        status=RecommendationStatus.PENDING,
        priority=RecommendationPriority.HIGH,
        estimated_savings=Decimal("18400.00"),
        estimated_improvement=1.4,
        confidence_score=0.92,
        created_at=T0,
        approved_at=None,
        executed_at=None,
    )


def entry(subject, status, name=None, order=None, error=None, *, after=0.0, **values):
    return shapes.TimelineEntry.model_validate(
        {
            "happened_at": T0 + timedelta(seconds=after),
            "subject_type": subject,
            "subject_id": uid(1),
            "status": status,
            "name": name,
            "step_order": order,
            "attempt": 1,
            "duration_seconds": None,
            "error": error,
            "actor": "cost-agent",
            **values,
        }
    )


def failed_run():
    """Make a run of which everything can be told: retries, a failure, artifacts, a lineage."""
    names = ["collect_metrics", "analyze_gpu_usage", "simulate_rightsizing", "recommend", "report"]
    done = StepStatus.COMPLETED
    timeout = "pricing API did not answer within 30s"
    error = {
        "type": "PricingUnavailable",
        "message": "no price for p5.48xlarge in eu-north-1 after 3 attempts",
        "traceback": 'Traceback (most recent call last):\n  File "simulate.py", line 88',
        "retryable": False,
    }
    steps = [
        step(
            1,
            names[0],
            spans=[span("waiting", 1, 0, 2), span("running", 1, 2, 96, done)],
            output_data={"metrics": 12_470, "regions": ["eu-north-1", "us-east-1"]},
        ),
        step(2, names[1], spans=[span("running", 1, 96, 244, done)]),
        step(
            3,
            names[2],
            StepStatus.FAILED,
            spans=[
                span("waiting", 1, 244, 249),
                span("running", 1, 249, 332, StepStatus.RETRYING, timeout),
                span("waiting", 2, 332, 392),
                span("running", 2, 392, 457, StepStatus.RETRYING, timeout),
                span("waiting", 3, 457, 577),
                span("running", 3, 577, 660, StepStatus.FAILED, error["message"]),
            ],
            input_data={"instance": "p5.48xlarge", "region": "eu-north-1", "horizon_days": 30},
            error_details=error,
        ),
        step(4, names[3], StepStatus.SKIPPED, spans=[]),
        step(5, names[4], StepStatus.SKIPPED, spans=[]),
    ]
    timeline = [
        entry("workflow_execution", "pending", after=-3),
        entry("workflow_execution", "running", after=0),
        entry("workflow_step", "running", names[0], 1, after=2),
        entry("workflow_artifact", None, "usage.csv", attempt=None, after=90),
        entry("workflow_step", "completed", names[0], 1, after=96, duration_seconds=94.0),
        entry(
            "workflow_step",
            "failed",
            names[2],
            3,
            error,
            after=660,
            attempt=3,
            duration_seconds=83.0,
        ),
        entry("workflow_execution", "failed", error=error, after=660, duration_seconds=660.0),
    ]
    return run(
        steps,
        WorkflowStatus.FAILED,
        660.0,
        attempt=2,
        retried_from_id=uid(11),
        input_data={"window": "30d", "currency": "USD"},
        error_details=error,
        artifacts=[artifact("usage.csv", "s3://reports/atlas/usage.csv"), artifact()],
        recommendations=[recommendation()],
        attempts=[
            attempt(1, WorkflowStatus.TIMEOUT),
            attempt(2, WorkflowStatus.FAILED, uid(1)),
        ],
        timeline=timeline,
        metadata={"trigger": "schedule"},
        deadline_at=T0 + timedelta(hours=1),
    )


def nasty_run():
    """Make a run whose every text is hostile."""
    steps = [
        step(
            number,
            text,
            StepStatus.FAILED,
            spans=[
                span("running", 1, number, number + 1, StepStatus.RETRYING, text),
                span("running", 2, number + 1, number + 2, StepStatus.FAILED, text),
            ],
            input_data={text: text},
            error_details={"type": text, "message": text, "traceback": text, text: text},
        )
        for number, text in enumerate(NASTY, start=1)
    ]
    return run(
        steps,
        WorkflowStatus.FAILED,
        20.0,
        customer=NASTY[0],
        agent=NASTY[2],
        input_data=NASTY,
        output_data="\n".join(NASTY),
        error_details={"message": NASTY[7]},
        metadata=dict.fromkeys(NASTY, 1),
        artifacts=[artifact(text, text) for text in NASTY],
        recommendations=[recommendation(text, text) for text in NASTY],
        timeline=[
            entry("workflow_step", "failed", text, 1, {"message": text}, actor=text)
            for text in NASTY
        ],
    )


def periods(counts, length=timedelta(days=1)):
    """Make a period of each (completed, failed, timed out, cancelled)."""
    return [
        shapes.Period(
            started_at=T0 + place * length,
            ended=sum(row),
            completed=row[0],
            failed=row[1],
            timed_out=row[2],
            cancelled=row[3],
        )
        for place, row in enumerate(counts)
    ]


def type_stats(type=WorkflowType.COST_ANALYSIS, p50=300.0, p95=600.0, p99=900.0, **values):
    return shapes.TypeStats.model_validate(
        {
            "workflow_type": type,
            "ended": 100,
            "completed": 90,
            "failed": 5,
            "timed_out": 2,
            "cancelled": 3,
            "failure_rate": 0.07,
            "retry_rate": 0.04,
            "duration_p50_seconds": p50,
            "duration_p95_seconds": p95,
            "duration_p99_seconds": p99,
            "queue_wait_p50_seconds": 2.0,
            "queue_wait_p95_seconds": 12.0,
            "queue_wait_p99_seconds": 40.0,
            **values,
        }
    )


def failing_step(name="simulate", error="no price", failed=5):
    return shapes.FailingStep(
        workflow_type=WorkflowType.COST_ANALYSIS,
        step_name=name,
        failed=failed,
        attempted=40,
        failure_rate=failed / 40,
        retries=9,
        latest_error=error,
        latest_failed_at=T0,
        latest_customer_id=uid(2),
        latest_workflow_execution_id=uid(1),
    )


def slow_step(name="analyze", seconds=4000.0, customer="Atlas Robotics", agent="cost-1"):
    return shapes.SlowStep(
        customer_id=uid(2),
        customer=customer,
        workflow_execution_id=uid(1),
        workflow_type=WorkflowType.COST_ANALYSIS,
        agent=agent,
        step_name=name,
        status=StepStatus.COMPLETED,
        retry_count=1,
        started_at=T0,
        duration_seconds=seconds,
    )


def agent_stats(agent="cost-1", ended=40, busy_seconds=7200.0):
    return shapes.AgentStats(
        agent_id=uid(3),
        agent=agent,
        agent_type=AgentType.COST,
        ended=ended,
        completed=ended - 1,
        failed=1,
        timed_out=0,
        cancelled=0,
        busy_seconds=busy_seconds,
    )


def agent_line(name="cost-1", running=2, pending=3):
    return shapes.AgentLine(
        id=uid(3),
        name=name,
        type=AgentType.COST,
        status=AgentStatus.HEALTHY,
        silent_seconds=None,
        running=running,
        pending=pending,
        oldest_pending_seconds=90.0,
        ended_last_hour=7,
        failed_last_hour=1,
        activity=None,
        current_workflow_type=None,
        current_customer_id=None,
        current_workflow_id=None,
    )


def saving(month=MONTH, customer="Atlas Robotics", agent="cost-1", usd=1000):
    return shapes.Saving(
        month=month,
        customer_id=uid(2),
        customer=customer,
        agent_id=uid(3),
        agent=agent,
        recommendations=4,
        rejected=1,
        approved=3,
        completed=2,
        rolled_back=0,
        predicted_savings=Decimal(usd),
        approved_savings=Decimal(usd) * 3 / 4,
        realised_savings=Decimal(usd) / 2,
    )


def report(**values):
    """Make a report, empty but for what is told."""
    return shapes.Report.model_validate(
        {
            "customer_id": None,
            "customer": None,
            "since": T0,
            "until": T0 + timedelta(days=30),
            "made_at": NOW,
            "counts": [],
            "period_seconds": 86_400,
            "periods": [],
            "types": [],
            "failing_steps": [],
            "slowest_steps": [],
            "agent_stats": [],
            "agents": [],
            "savings": [],
            **values,
        }
    )


def full_report(days=30, **values):
    """Make a report with all that there may be."""
    return report(
        until=T0 + timedelta(days=days),
        counts=[
            shapes.Count(
                workflow_type=WorkflowType.COST_ANALYSIS, status=WorkflowStatus.RUNNING, runs=4
            )
        ],
        periods=periods([(40 + day % 7, day % 3, day % 2, day % 5) for day in range(days)]),
        types=[
            type_stats(),
            type_stats(WorkflowType.HEALTH_CHECK, 0.4, 2.0, 9.0, failed=0, failure_rate=0.02),
            type_stats(WorkflowType.SCALING_DECISION, None, None, None),
        ],
        failing_steps=[failing_step("simulate", failed=9), failing_step("simulate")],
        slowest_steps=[slow_step(), slow_step(seconds=1200.0)],
        agent_stats=[agent_stats("perf-1", 4, 90_000.0), agent_stats()],
        agents=[agent_line(), agent_line("perf-1", 0, 1)],
        savings=[saving(), saving(agent="perf-1"), saving(T0.date().replace(month=2, day=1))],
        **values,
    )


def nasty_report():
    """Make a report whose every text is hostile."""
    return full_report().model_copy(
        update={
            "customer": NASTY[2],
            "agent_stats": [agent_stats(text) for text in NASTY],
            "failing_steps": [failing_step(text, text) for text in NASTY],
            "slowest_steps": [slow_step(text, customer=text, agent=text) for text in NASTY],
            "agents": [agent_line(text) for text in [*NASTY, NASTY[0]]],
            "savings": [saving(customer=text, agent=text) for text in NASTY],
        }
    )
