"""What the command line and the HTML pages show, as pydantic models: the shapes of `--json`.

They are stable: names stay, and only new ones come. Times are in UTC, durations in seconds
(`_seconds`), sizes in bytes, money in USD (savings: a month). The functions make them of the
generated functions' rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal, Self
from uuid import UUID

from psycopg import Connection
from pydantic import BaseModel, ConfigDict, PlainSerializer

from optiinfra_db import artifacts
from optiinfra_db.artifacts import ArtifactProblem
from optiinfra_db.errors import UnknownReference
from optiinfra_db.feed import Cursor
from optiinfra_db.generated import (
    agent_metrics,
    api_keys,
    customers,
    models,
    monitoring,
    recommendations,
    workflow_executions,
)
from optiinfra_db.generated.models import (
    AgentStatus,
    AgentStatusDetail,
    AgentType,
    ArtifactType,
    EventSeverity,
    RecommendationPriority,
    RecommendationStatus,
    StepStatus,
    WorkflowStatus,
    WorkflowType,
)
from optiinfra_db.generated.recommendations import ListSavingsRow

Money = Annotated[Decimal, PlainSerializer(float, return_type=float, when_used="json")]


class Shape(BaseModel):
    """One thing that is shown."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


class Migration(Shape):
    """A migration as the package and the database know it."""

    id: str
    state: Literal["applied", "pending", "edited", "unknown"]
    applied_at: datetime | None
    applied_by: str | None


class Finding(Shape):
    """Something that the doctor found."""

    check: str
    subject: str
    problem: str
    customer_id: UUID | None
    id: UUID | None


class AuditDeviation(Shape):
    """Something in the audit log that is not as it was sealed; None: it is about no event."""

    customer_id: UUID
    problem: str
    seal_number: int | None
    event_id: UUID | None
    event_time: datetime | None


class CustomerLine(Shape):
    """A customer."""

    id: UUID
    name: str
    email: str
    plan: models.CustomerPlan
    status: models.CustomerStatus
    created_at: datetime


class ApiKeyLine(Shape):
    """An API key of a customer, without what it is."""

    customer_id: UUID
    id: UUID
    status: Literal["valid", "expired", "revoked"]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    """To the minute."""

    @classmethod
    def of(cls, row: api_keys.ApiKey) -> Self:
        """Make it of a key as it is now."""
        is_expired = row.expires_at is not None and row.expires_at <= datetime.now(UTC)
        return cls(
            customer_id=row.customer_id,
            id=row.id,
            status="revoked" if row.revoked_at else "expired" if is_expired else "valid",
            created_at=row.created_at,
            expires_at=row.expires_at,
            revoked_at=row.revoked_at,
            last_used_at=row.last_used_at,
        )


class WorkflowLine(Shape):
    """A run in a list."""

    id: UUID
    customer_id: UUID
    customer: str
    agent_id: UUID
    agent: str
    workflow_type: WorkflowType
    status: WorkflowStatus
    attempt: int
    steps_done: int
    steps_total: int
    current_step: str | None
    """That is running, or waits to be tried again."""
    retries: int
    """How often its steps were tried again, in all."""
    failed_step: str | None
    """The first that failed."""
    error: str | None
    """The message of its error."""
    created_at: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    completed_at: datetime | None
    deadline_at: datetime | None
    duration_seconds: float | None
    """Of its run so far; None where it was never started."""

    @classmethod
    def of(cls, row: workflow_executions.WorkflowProgress) -> Self:
        """Make it of a row of list_recent_workflows or list_open_workflows."""
        return cls(
            id=row.id,
            customer_id=row.customer_id,
            customer=row.customer_name,
            agent_id=row.agent_id,
            agent=row.agent_name,
            workflow_type=row.workflow_type,
            status=row.status,
            attempt=row.attempt,
            steps_done=row.steps_done,
            steps_total=row.steps_total,
            current_step=row.current_step_name,
            retries=row.retries,
            failed_step=row.failed_step_name,
            error=row.failed_step_error,
            created_at=row.created_at,
            started_at=row.started_at,
            heartbeat_at=row.heartbeat_at,
            completed_at=row.completed_at,
            deadline_at=row.deadline_at,
            duration_seconds=_seconds(row.duration),
        )


class Span(Shape):
    """A part of a step's time."""

    kind: Literal["waiting", "running"]
    attempt: int
    """From 1: of waiting, the attempt that is waited for."""
    started_at: datetime
    ended_at: datetime | None
    """None while it lasts."""
    status: StepStatus | None
    """What the attempt ended in; None for waiting, and while it lasts."""
    error: str | None
    """The message of the attempt's error."""


class Step(Shape):
    """A step of a run."""

    id: UUID
    step_order: int
    step_name: str
    status: StepStatus
    retry_count: int
    max_retries: int
    next_attempt_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    duration_seconds: float | None
    """Of its latest attempt; None before it ended."""
    spans: list[Span]
    """Its waiting and its attempts, in order."""
    input_data: Any
    output_data: Any
    error_details: dict[str, Any] | None

    @property
    def attempts(self) -> list[Span]:
        """Its attempts, in order, without the waiting between them."""
        return [span for span in self.spans if span.kind == "running"]


class Artifact(Shape):
    """An artifact of a run."""

    id: UUID
    customer_id: UUID
    workflow_execution_id: UUID
    workflow_step_id: UUID | None
    artifact_type: ArtifactType
    artifact_name: str
    artifact_path: str
    artifact_size_bytes: int
    content_type: str
    sha256: str
    """In hexadecimal digits."""
    created_at: datetime

    @classmethod
    def of(cls, row: models.WorkflowArtifact) -> Self:
        """Make it of a row."""
        return cls.model_validate({**_columns(row), "sha256": row.sha256.hex()})


class Attempt(Shape):
    """A run in the line of retries that a run belongs to."""

    id: UUID
    attempt: int
    status: WorkflowStatus
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None


class TimelineEntry(Shape):
    """Something that happened in a run."""

    happened_at: datetime
    subject_type: str
    subject_id: UUID
    status: str | None
    name: str | None
    step_order: int | None
    attempt: int | None
    duration_seconds: float | None
    error: Any
    actor: str | None


class Workflow(Shape):
    """All there is to know of a run."""

    id: UUID
    customer_id: UUID
    customer: str
    agent_id: UUID
    agent: str
    agent_type: AgentType
    workflow_type: WorkflowType
    status: WorkflowStatus
    attempt: int
    retried_from_id: UUID | None
    created_at: datetime
    started_at: datetime | None
    heartbeat_at: datetime | None
    completed_at: datetime | None
    deadline_at: datetime | None
    waited_seconds: float | None
    """From its creation to its start, or its end without one; None while it waits."""
    duration_seconds: float | None
    """From its start to its end; None before."""
    input_data: Any
    output_data: Any
    error_details: dict[str, Any] | None
    metadata: dict[str, Any]
    steps_done: int
    """How many completed or were skipped, but not those that the end of the run closed."""
    steps: list[Step]
    """In the order of the plan."""
    artifacts: list[Artifact]
    """Oldest first."""
    recommendations: list["RecommendationLine"]
    """What it proposed, oldest first."""
    attempts: list[Attempt]
    """The line of retries that it belongs to, itself included, oldest first."""
    timeline: list[TimelineEntry]
    """What happened, in order."""

    @property
    def failed_step(self) -> Step | None:
        """The first step that failed."""
        return next((step for step in self.steps if step.status is StepStatus.FAILED), None)


class AgentLine(Shape):
    """An agent and its load."""

    id: UUID
    name: str
    type: AgentType
    status: AgentStatus
    silent_seconds: float | None
    """Since it last reported; None where it never did."""
    running: int
    """Runs of its that are running."""
    pending: int
    """Runs that wait for it."""
    oldest_pending_seconds: float | None
    ended_last_hour: int
    failed_last_hour: int
    activity: AgentStatusDetail | None
    current_workflow_type: WorkflowType | None
    current_customer_id: UUID | None
    current_workflow_id: UUID | None

    @classmethod
    def of(cls, row: monitoring.ListAgentWorkloadRow) -> Self:
        """Make it of a row of list_agent_workload."""
        return cls(
            id=row.agent_id,
            name=row.agent,
            type=row.agent_type,
            status=row.status,
            silent_seconds=_seconds(row.silent_for),
            running=row.running,
            pending=row.pending,
            oldest_pending_seconds=_seconds(row.oldest_pending_for),
            ended_last_hour=row.ended_last_hour,
            failed_last_hour=row.failed_last_hour,
            activity=row.activity,
            current_workflow_type=row.current_workflow_type,
            current_customer_id=row.current_customer_id,
            current_workflow_id=row.current_workflow_id,
        )


class RecommendationLine(Shape):
    """A recommendation."""

    id: UUID
    customer_id: UUID
    agent_id: UUID
    workflow_execution_id: UUID | None
    """The run that proposed it."""
    type: str
    title: str
    description: str
    status: RecommendationStatus
    priority: RecommendationPriority
    estimated_savings: Money | None
    estimated_improvement: float | None
    """A multiplier."""
    confidence_score: float | None
    """0 to 1."""
    created_at: datetime
    approved_at: datetime | None
    executed_at: datetime | None


class Approval(Shape):
    """A question to a customer, and its answer."""

    id: UUID
    status: models.ApprovalStatus
    approved_by: str | None
    comment: str
    expires_at: datetime | None
    decided_at: datetime | None
    created_at: datetime


class Optimization(Shape):
    """A recommendation being carried out."""

    id: UUID
    agent_id: UUID
    workflow_execution_id: UUID | None
    status: models.OptimizationStatus
    progress: int
    """In percent."""
    error: str | None
    actual_savings: Money | None
    actual_improvement: float | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    rolled_back_at: datetime | None


class Trace(Shape):
    """A recommendation from the run that proposed it to what it brought."""

    recommendation: RecommendationLine
    agent: str
    workflow: Attempt | None
    """The run that proposed it."""
    artifacts: list[Artifact]
    """What that run left."""
    approvals: list[Approval]
    optimizations: list[Optimization]
    predicted_savings: Money | None
    realised_savings: Money | None
    savings_ratio: float | None
    """Realised over predicted."""


class Saving(Shape):
    """What an agent proposed to a customer in a month, and what came of it."""

    month: date
    """Its first day."""
    customer_id: UUID
    customer: str
    agent_id: UUID
    agent: str
    recommendations: int
    rejected: int
    approved: int
    completed: int
    rolled_back: int
    predicted_savings: Money
    approved_savings: Money
    realised_savings: Money

    @classmethod
    def of(cls, row: ListSavingsRow) -> Self:
        """Make it of a row of list_savings."""
        columns = _columns(row)
        return cls.model_validate(
            {**columns, "customer": row.customer_name, "agent": row.agent_name}
        )


class EventLine(Shape):
    """An event of the audit log."""

    cursor: str
    """Its place in the change feed, to go on after it."""
    id: UUID
    created_at: datetime
    customer_id: UUID
    agent_id: UUID | None
    event_type: str
    severity: EventSeverity
    subject_type: str | None
    subject_id: UUID | None
    actor: str
    data: dict[str, Any]

    @classmethod
    def of(cls, event: models.Event) -> Self:
        """Make it of an event."""
        return cls.model_validate({**_columns(event), "cursor": str(Cursor.of(event))})


class MetricPoint(Shape):
    """The values of a metric in a span of time, or how fast it grew."""

    started_at: datetime
    values: int | None = None
    average: float | None = None
    minimum: float | None = None
    maximum: float | None = None
    p50: float | None = None
    p95: float | None = None
    increase: float | None = None
    """Of a counter."""
    increase_per_second: float | None = None
    """Of a counter."""

    @classmethod
    def of(
        cls,
        row: agent_metrics.ListAgentMetricBucketsRow | agent_metrics.ListAgentMetricRatesRow,
    ) -> Self:
        """Make it of a row of list_agent_metric_buckets or list_agent_metric_rates."""
        columns = _columns(row)
        return cls.model_validate(
            {
                **columns,
                "started_at": row.bucket_start,
                "values": columns.get("value_count"),
            }
        )


class MetricLine(Shape):
    """The latest value of a metric."""

    metric_name: str
    metric_type: models.MetricType
    metric_value: float
    recorded_at: datetime
    tags: dict[str, Any]


class ArtifactCheck(Shape):
    """What came of comparing the content of an artifact to its row."""

    artifact: Artifact
    problem: ArtifactProblem | None
    """None where the content is what the row says."""
    detail: str

    @classmethod
    def of(cls, check: artifacts.ArtifactCheck) -> Self:
        """Make it of what check_artifacts yields."""
        return cls(artifact=Artifact.of(check.artifact), problem=check.problem, detail=check.detail)


class PartitionLine(Shape):
    """A partition of a table, as in `partitions list`; since and until are None of DEFAULT."""

    table_name: str
    partition_name: str
    since: datetime | None
    until: datetime | None
    live_rows: int
    total_bytes: int


class PolicyLine(Shape):
    """A retention policy, as in `retention list`."""

    id: UUID
    table_name: str
    customer_id: UUID | None
    workflow_type: WorkflowType | None
    keep_for_seconds: float

    @classmethod
    def of(cls, row: models.RetentionPolicy) -> Self:
        """Make one of a row."""
        values = _columns(row) | {"keep_for_seconds": row.keep_for.total_seconds()}
        return cls.model_validate(values)


class HoldLine(Shape):
    """A legal hold, as in `holds list`; of a customer with all that is theirs, or of a run."""

    id: UUID
    customer_id: UUID
    workflow_execution_id: UUID | None
    reason: str
    created_at: datetime


class ReceiptLine(Shape):
    """What housekeeping did, as in `receipts`."""

    id: UUID
    created_at: datetime
    operation: str
    customer_id: UUID | None
    partition: str | None
    row_counts: dict[str, int]
    actor: str
    archive_url: str | None
    archive_sha256: str | None

    @classmethod
    def of(cls, row: models.Receipt) -> Self:
        """Make one of a row."""
        digest = row.archive_sha256.hex() if row.archive_sha256 else None
        data = row.data if isinstance(row.data, dict) else {}
        return cls.model_validate(
            _columns(row) | {"archive_sha256": digest, "partition": data.get("partition")}
        )


class Orphans(Shape):
    """Rows without content, and content without a row."""

    rows: list[Artifact]
    contents: list[str]
    """Paths."""
    unreadable: list[ArtifactCheck]

    @classmethod
    def of(cls, orphans: artifacts.Orphans) -> Self:
        """Make it of what find_orphans returns."""
        return cls(
            rows=[Artifact.of(row) for row in orphans.rows],
            contents=orphans.contents,
            unreadable=[ArtifactCheck.of(check) for check in orphans.unreadable],
        )


class Difference(Shape):
    """Something in which two runs differ."""

    path: str
    """Where it is: status, steps.collect.output_data.count, artifacts.report.sha256."""
    a: Any
    """In the first run; None where it is not there."""
    b: Any


class StepPair(Shape):
    """A step in two runs."""

    step_name: str
    a_status: StepStatus | None
    """In the first run; None where that has no such step."""
    b_status: StepStatus | None
    a_seconds: float | None
    b_seconds: float | None


class WorkflowDiff(Shape):
    """How two runs differ."""

    a: UUID
    b: UUID
    steps: list[StepPair]
    differences: list[Difference]


class Recorded(Shape):
    """A run that was recorded from elsewhere."""

    id: UUID
    is_new: bool
    """False where it was there already: nothing was written then."""


class Count(Shape):
    """How many runs there are of a type in a state."""

    workflow_type: WorkflowType
    status: WorkflowStatus
    runs: int


class Period(Shape):
    """How many runs ended in a span of time."""

    started_at: datetime
    ended: int
    completed: int
    failed: int
    timed_out: int
    cancelled: int


class TypeStats(Shape):
    """How the runs of a type went."""

    workflow_type: WorkflowType
    ended: int
    completed: int
    failed: int
    timed_out: int
    cancelled: int
    failure_rate: float
    """0 to 1: those that failed or timed out."""
    retry_rate: float
    duration_p50_seconds: float | None
    duration_p95_seconds: float | None
    duration_p99_seconds: float | None
    queue_wait_p50_seconds: float | None
    queue_wait_p95_seconds: float | None
    queue_wait_p99_seconds: float | None


class AgentStats(Shape):
    """How the runs of an agent went."""

    agent_id: UUID
    agent: str
    agent_type: AgentType
    ended: int
    completed: int
    failed: int
    timed_out: int
    cancelled: int
    busy_seconds: float
    """How long its runs took, added up: those of the same time all count."""


class FailingStep(Shape):
    """A step that failed."""

    workflow_type: WorkflowType
    step_name: str
    failed: int
    attempted: int
    failure_rate: float
    retries: int
    latest_error: str
    latest_failed_at: datetime
    latest_customer_id: UUID
    latest_workflow_execution_id: UUID


class SlowStep(Shape):
    """A step that took long."""

    customer_id: UUID
    customer: str
    workflow_execution_id: UUID
    workflow_type: WorkflowType
    agent: str
    step_name: str
    status: StepStatus
    retry_count: int
    started_at: datetime
    duration_seconds: float


class Report(Shape):
    """How it went for a customer, or the whole platform, in a window of time."""

    customer_id: UUID | None
    """None for the whole platform."""
    customer: str | None
    since: datetime
    until: datetime
    made_at: datetime
    counts: list[Count]
    """Runs that ended in the window, and those created in it that are open."""
    period_seconds: int
    """How long each of `periods` is."""
    periods: list[Period]
    """Runs that ended, over time; those of no run included."""
    types: list[TypeStats]
    failing_steps: list[FailingStep]
    """Most failures first."""
    slowest_steps: list[SlowStep]
    """The longest first."""
    agent_stats: list[AgentStats]
    """Of the runs that ended in the window."""
    agents: list[AgentLine]
    """As they are now; none in the report of a customer, since it is the load of all customers."""
    savings: list[Saving]
    """By month, customer and agent."""


def load_workflow(conn: Connection[Any], *, customer_id: UUID, id: UUID) -> Workflow:
    """Read all there is to know of a run. Raises UnknownReference."""
    key = {"customer_id": customer_id, "id": id}
    detail = workflow_executions.get_workflow_detail(conn, **key)
    if detail is None:
        raise UnknownReference(f"There is no run {id} of customer {customer_id}.")
    run, timeline = (
        detail.workflow_execution,
        workflow_executions.get_workflow_timeline(conn, **key),
    )
    proposed = recommendations.list_workflow_recommendations(
        conn, customer_id=customer_id, workflow_execution_id=id
    )
    until = run.started_at or run.completed_at
    return Workflow.model_validate(
        {
            **_columns(run),
            "customer": detail.customer.name,
            "agent": detail.agent.name,
            "agent_type": detail.agent.type,
            "waited_seconds": _seconds(until - run.created_at if until else None),
            "duration_seconds": _between(run.started_at, run.completed_at),
            "steps_done": sum(
                step.status in {StepStatus.COMPLETED, StepStatus.SKIPPED}
                and "closed_with_run" not in step.metadata
                for step in detail.steps
            ),
            "steps": list(_steps(run, detail.steps, timeline)),
            "artifacts": [Artifact.of(artifact) for artifact in detail.artifacts],
            "recommendations": [RecommendationLine.model_validate(row) for row in proposed],
            "attempts": [
                Attempt.model_validate(row)
                for row in workflow_executions.get_workflow_lineage(conn, **key)
            ],
            "timeline": [
                TimelineEntry.model_validate(
                    {**_columns(row), "duration_seconds": _seconds(row.duration)}
                )
                for row in timeline
            ],
        }
    )


def load_report(
    conn: Connection[Any], *, since: datetime, until: datetime, customer_id: UUID | None = None
) -> Report:
    """Read how it went for a customer, or the whole platform. Raises UnknownReference."""
    customer = customers.get_customer(conn, id=customer_id) if customer_id else None
    if customer_id and customer is None:
        raise UnknownReference(f"There is no customer {customer_id}.")
    window: dict[str, Any] = {"since": since, "until": until, "customer_id": customer_id}
    hours = monitoring.list_workflow_throughput(conn, **window)
    length = timedelta(hours=1) if until - since <= timedelta(days=3) else timedelta(days=1)
    return Report(
        customer_id=customer_id,
        customer=customer.name if customer else None,
        since=since,
        until=until,
        made_at=datetime.now(UTC),
        counts=[
            Count.model_validate(row)
            for row in monitoring.count_workflow_executions(conn, **window)
        ],
        period_seconds=int(length.total_seconds()),
        periods=list(_periods(hours, length)),
        types=[
            TypeStats.model_validate({**_columns(row), **_durations(row)})
            for row in monitoring.list_workflow_stats(conn, **window)
        ],
        failing_steps=[
            FailingStep.model_validate(row)
            for row in monitoring.list_failing_steps(conn, **window, max_rows=10)
        ],
        slowest_steps=[
            SlowStep.model_validate(
                {
                    **_columns(row),
                    "customer": row.customer_name,
                    "agent": row.agent_name,
                    "duration_seconds": row.duration.total_seconds(),
                }
            )
            for row in monitoring.list_slowest_steps(conn, **window, max_rows=10)
        ],
        agent_stats=[
            AgentStats.model_validate(
                {
                    **_columns(row),
                    "agent": row.agent_name,
                    "busy_seconds": row.busy_for.total_seconds(),
                }
            )
            for row in monitoring.list_agent_stats(conn, **window)
        ],
        agents=[
            AgentLine.of(row) for row in ([] if customer else monitoring.list_agent_workload(conn))
        ],
        savings=[Saving.of(row) for row in recommendations.list_savings(conn, **window)],
    )


def load_trace(conn: Connection[Any], *, customer_id: UUID, id: UUID) -> Trace:
    """Follow a recommendation to what it brought. Raises UnknownReference."""
    row = recommendations.get_recommendation_trace(conn, customer_id=customer_id, id=id)
    if row is None:
        raise UnknownReference(f"There is no recommendation {id} of customer {customer_id}.")
    return Trace.model_validate(
        {
            **_columns(row),
            "recommendation": RecommendationLine.model_validate(row.recommendation),
            "agent": row.agent.name,
            "workflow": row.workflow_execution,
            "artifacts": [Artifact.of(artifact) for artifact in row.artifacts],
        }
    )


def _steps(
    run: models.WorkflowExecution,
    steps: Sequence[models.WorkflowStep],
    timeline: Sequence[workflow_executions.GetWorkflowTimelineRow],
) -> Iterator[Step]:
    ready_at = run.started_at
    for step in steps:
        told = [row for row in timeline if row.subject_id == step.id and row.status != "pending"]
        yield Step.model_validate(
            {
                **_columns(step),
                "duration_seconds": _between(step.started_at, step.completed_at),
                "spans": list(_spans(step, ready_at, told)),
            }
        )
        ready_at = step.completed_at and max(step.completed_at, ready_at or step.completed_at)


def _spans(
    step: models.WorkflowStep,
    ready_at: datetime | None,
    told: Iterable[workflow_executions.GetWorkflowTimelineRow],
) -> Iterator[Span]:
    """Make parts of the time of a step of what happened to it."""
    waiting_since, attempt, running_since = ready_at, 1, None
    for row in told:
        if row.status == StepStatus.RUNNING:
            attempt = row.attempt or attempt
            if waiting_since and waiting_since < row.happened_at:
                yield _waiting(attempt, waiting_since, row.happened_at)
            waiting_since, running_since = None, row.happened_at
        elif running_since:
            status = None if row.status is None else StepStatus(row.status)
            message = row.error.get("message") if isinstance(row.error, dict) else None
            yield Span(
                kind="running",
                attempt=attempt,
                started_at=running_since,
                ended_at=row.happened_at,
                status=status,
                error=None if message is None else str(message),
            )
            waiting_since, running_since = row.happened_at, None
            attempt += 1
    if running_since:
        yield Span(
            kind="running",
            attempt=attempt,
            started_at=running_since,
            ended_at=None,
            status=None,
            error=None,
        )
    elif waiting_since and step.status in {StepStatus.PENDING, StepStatus.RETRYING}:
        yield _waiting(attempt, waiting_since, None)


def _waiting(attempt: int, started_at: datetime, ended_at: datetime | None) -> Span:
    return Span(
        kind="waiting",
        attempt=attempt,
        started_at=started_at,
        ended_at=ended_at,
        status=None,
        error=None,
    )


def _periods(
    hours: Iterable[monitoring.ListWorkflowThroughputRow], length: timedelta
) -> Iterator[Period]:
    """Add hours up to periods."""
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    sums: dict[datetime, list[int]] = {}
    for row in hours:
        start = epoch + (row.hour - epoch) // length * length
        counts = [row.ended, row.completed, row.failed, row.timed_out, row.cancelled]
        sums[start] = [a + b for a, b in zip(sums.get(start, [0] * 5), counts, strict=True)]
    for start, (ended, completed, failed, timed_out, cancelled) in sums.items():
        yield Period(
            started_at=start,
            ended=ended,
            completed=completed,
            failed=failed,
            timed_out=timed_out,
            cancelled=cancelled,
        )


def _durations(row: monitoring.ListWorkflowStatsRow) -> dict[str, float | None]:
    return {
        f"{name}_seconds": _seconds(value)
        for name, value in _columns(row).items()
        if name.startswith(("duration_", "queue_wait_"))
    }


def _columns(row: Any) -> dict[str, Any]:  # noqa: ANN401 -- any row of the generated functions
    """Return what is in a row, by column."""
    return {name: getattr(row, name) for name in row.__slots__}


def _between(start: datetime | None, end: datetime | None) -> float | None:
    return (end - start).total_seconds() if start and end else None


def _seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()
