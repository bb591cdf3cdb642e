"""Sample data: a small platform at work, written through the generated functions.

Every row has a fixed id or a natural key, and times count back from when the first customer was
written, so that seeding again finds everything there and changes nothing.
"""

import hashlib
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg

from optiinfra_db.generated import (
    agent_capabilities,
    agent_configs,
    agent_metrics,
    agent_states,
    agents,
    approvals,
    customers,
    events,
    optimizations,
    recommendations,
    workflow_executions,
)
from optiinfra_db.generated.models import (
    AgentStatus,
    AgentStatusDetail,
    AgentType,
    ApprovalStatus,
    ArtifactType,
    ConfigType,
    CustomerPlan,
    EventSeverity,
    MetricType,
    RecommendationPriority,
    StepStatus,
    WorkflowStatus,
    WorkflowType,
)

Connection = psycopg.Connection[Any]


def _id(number: int) -> UUID:
    """Return a fixed id: a UUIDv7 of 2025-01-01, so that it sorts before all that come later."""
    return UUID(f"01941f29-7c00-7000-8000-{number:012x}")


INDIE, NIMBUS, ATLAS = _id(1), _id(2), _id(3)
"""The customers, one a plan: free, startup, enterprise."""

ORCHESTRATOR, COST, PERFORMANCE, RESOURCE, APPLICATION = (_id(n) for n in range(0x11, 0x16))
"""The agents, one a type."""

COST_RUN, TUNING_RUN, QUALITY_RUN = _id(0x21), _id(0x22), _id(0x23)
"""The runs: completed, running, failed."""

RIGHTSIZE, TIER_STORAGE, BATCH_REQUESTS = _id(0x31), _id(0x32), _id(0x33)
"""The recommendations; the first one is approved and queued to be carried out."""

APPROVAL, OPTIMIZATION = _id(0x41), _id(0x42)


@dataclass
class SeedReport:
    """How many rows a seeding wrote, and how many it found there, by table."""

    written: Counter[str] = field(default_factory=Counter)
    found: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        """Say it in a line a table."""
        if not self.written.total():
            return f"Nothing to do: all {self.found.total()} rows of sample data are there."
        lines = [f"{count:3} {table}" for table, count in self.written.items()]
        there = f" ({self.found.total()} were there)" if self.found.total() else ""
        return "\n".join([f"Wrote {self.written.total()} rows of sample data{there}:", *lines])

    def is_missing(self, table: str, found: object, rows: int = 1) -> bool:
        """Whether the rows are to be written, as they were not found; count them either way."""
        (self.found if found else self.written)[table] += rows
        return not found


def seed(conn: Connection) -> SeedReport:
    """Write the sample data that is not there yet, in one transaction.

    Raises AlreadyExists where other rows hold its natural keys, such as the email of a sample
    customer, and NotFound where one of its ids is another customer's.
    """
    report = SeedReport()
    with conn.transaction():
        base = _customers(conn, report)
        _agents(conn, report)
        _cost_analysis(conn, report, base)
        _performance_tuning(conn, report, base)
        _quality_check(conn, report, base)
        _recommendations(conn, report)
        _agent_state(conn, report, base)
        _events(conn, report, base)
    return report


def _customers(conn: Connection, report: SeedReport) -> datetime:
    """Return when the first customer was written; all other times count from there."""
    for customer, name, email, plan, metadata in (
        (INDIE, "Indie Robotics", "ops@indie-robotics.example", CustomerPlan.FREE, {"gpus": 2}),
        (NIMBUS, "Nimbus Chat", "platform@nimbus.example", CustomerPlan.STARTUP, {"gpus": 8}),
        (ATLAS, "Atlas Bank", "ml-infra@atlas.example", CustomerPlan.ENTERPRISE, {"gpus": 12}),
    ):
        if report.is_missing("customers", customers.get_customer(conn, id=customer)):
            customers.create_customer(
                conn,
                id=customer,
                name=name,
                email=email,
                api_key_hash=_digest(f"sample key of {email}"),
                plan=plan,
                metadata=metadata,
            )
    first = customers.get_customer(conn, id=INDIE)
    assert first is not None  # noqa: S101 -- written above
    return first.created_at


def _agents(conn: Connection, report: SeedReport) -> None:
    for agent, agent_type, name, status in (
        (ORCHESTRATOR, AgentType.ORCHESTRATOR, "orchestrator-1", AgentStatus.HEALTHY),
        (COST, AgentType.COST, "cost-1", AgentStatus.HEALTHY),
        (PERFORMANCE, AgentType.PERFORMANCE, "performance-1", AgentStatus.HEALTHY),
        (RESOURCE, AgentType.RESOURCE, "resource-1", AgentStatus.DEGRADED),
        (APPLICATION, AgentType.APPLICATION, "application-1", AgentStatus.HEALTHY),
    ):
        if report.is_missing("agents", agents.get_agent(conn, id=agent)):
            agents.upsert_agent(
                conn,
                id=agent,
                type=agent_type,
                name=name,
                version="1.4.2",
                endpoint=f"http://{name}.agents.internal:8080",
                capabilities=[name for owner, name in CAPABILITIES if owner == agent],
            )
            agents.record_agent_heartbeat(conn, id=agent, status=status)


CAPABILITIES = [
    (ORCHESTRATOR, "route_workflows"),
    (COST, "analyze_gpu_cost"),
    (COST, "analyze_storage_cost"),
    (PERFORMANCE, "tune_inference"),
    (RESOURCE, "scale_nodes"),
    (APPLICATION, "check_quality"),
]

CONFIGS = [
    (COST, "report_bucket", "s3://optiinfra-reports", ConfigType.STRING),
    (COST, "lookback_days", "30", ConfigType.INTEGER),
    (COST, "min_confidence", "0.75", ConfigType.FLOAT),
    (COST, "auto_approve", "false", ConfigType.BOOLEAN),
    (COST, "providers", '["aws", "gcp"]', ConfigType.JSON),
    (APPLICATION, "quality_threshold", "0.85", ConfigType.FLOAT),
]

METRICS = [
    (COST, "gpu_utilization_percent", 35.2, MetricType.GAUGE, {"region": "us-east-1"}),
    (COST, "monthly_cost_usd", 120000.0, MetricType.GAUGE, {"customer": "atlas"}),
    (PERFORMANCE, "latency_p95_ms", 412.7, MetricType.HISTOGRAM, {"model": "llama-70b"}),
    (PERFORMANCE, "tokens_per_second", 1830.0, MetricType.GAUGE, {"model": "llama-70b"}),
    (RESOURCE, "requests_total", 984211.0, MetricType.COUNTER, {"cluster": "prod"}),
    (APPLICATION, "answer_quality", 0.78, MetricType.GAUGE, {"model": "mixtral-8x7b"}),
]


def _agent_state(conn: Connection, report: SeedReport, base: datetime) -> None:
    for agent, capability in CAPABILITIES:
        found = agent_capabilities.get_agent_capability(
            conn, agent_id=agent, capability_name=capability
        )
        if report.is_missing("agent_capabilities", found):
            agent_capabilities.upsert_agent_capability(
                conn, agent_id=agent, capability_name=capability
            )
    for agent, key, text, config_type in CONFIGS:
        config = agent_configs.get_agent_config(conn, agent_id=agent, config_key=key)
        if report.is_missing("agent_configs", config):
            agent_configs.upsert_agent_config(
                conn, agent_id=agent, config_key=key, config_value=text, config_type=config_type
            )
    for agent, status, cpu_percent in (
        (ORCHESTRATOR, AgentStatusDetail.PROCESSING, 22.5),
        (COST, AgentStatusDetail.IDLE, 1.2),
        (PERFORMANCE, AgentStatusDetail.BUSY, 71.8),
        (APPLICATION, AgentStatusDetail.ERROR, 3.4),
    ):
        if report.is_missing("agent_states", agent_states.get_agent_state(conn, agent_id=agent)):
            agent_states.upsert_agent_state(
                conn,
                agent_id=agent,
                current_status=status,
                active_workflows=[str(TUNING_RUN)] if agent == PERFORMANCE else [],
                resource_usage={"cpu_percent": cpu_percent, "memory_mb": 512},
            )
            if agent == PERFORMANCE:
                agent_states.set_agent_current_workflow(
                    conn, agent_id=agent, customer_id=NIMBUS, workflow_execution_id=TUNING_RUN
                )
    recorded_at = base - timedelta(minutes=1)
    for agent, name, value, metric_type, tags in METRICS:
        recorded = agent_metrics.list_agent_metrics(
            conn,
            agent_id=agent,
            metric_name=name,
            since=recorded_at,
            until=recorded_at + timedelta(microseconds=1),
            max_rows=1,
        )
        if report.is_missing("agent_metrics", recorded):
            agent_metrics.create_agent_metric(
                conn,
                agent_id=agent,
                metric_name=name,
                recorded_at=recorded_at,
                metric_value=value,
                metric_type=metric_type,
                tags=tags,
            )


def _cost_analysis(conn: Connection, report: SeedReport, base: datetime) -> None:
    """Completed, in about 15 minutes: half of what Atlas Bank pays can be saved."""
    start = base - timedelta(hours=2)
    _record(
        conn,
        report,
        id=COST_RUN,
        customer_id=ATLAS,
        agent_id=COST,
        workflow_type=WorkflowType.COST_ANALYSIS,
        status=WorkflowStatus.COMPLETED,
        start=start,
        input_data={"period": "last_30_days", "providers": ["aws", "gcp"]},
        output_data={
            "total_monthly_cost_usd": 120000,
            "potential_savings_usd": 60000,
            "savings_percent": 50,
            "confidence": 0.92,
        },
        steps=[
            (
                "collect_metrics",
                StepStatus.COMPLETED,
                185,
                {
                    "sources": ["prometheus", "cloudwatch", "billing_api"],
                    "metrics_collected": 1247,
                },
            ),
            (
                "analyze_gpu_usage",
                StepStatus.COMPLETED,
                262,
                {
                    "gpus": 12,
                    "average_utilization_percent": 35.2,
                    "idle_gpus": 4,
                    "potential_savings_usd": 35000,
                },
            ),
            (
                "analyze_storage",
                StepStatus.COMPLETED,
                194,
                {"total_tb": 45.2, "cold_percent": 62, "potential_savings_usd": 15000},
            ),
            (
                "generate_recommendations",
                StepStatus.COMPLETED,
                148,
                {"recommendations": 8, "high_priority": 3},
            ),
            ("generate_report", StepStatus.COMPLETED, 103, {"pages": 24, "format": "pdf"}),
        ],
        artifacts=[
            _artifact(
                5,
                ArtifactType.REPORT,
                "Cost analysis report",
                "s3://optiinfra-reports/atlas/cost-analysis.pdf",
                size_bytes=2_458_624,
                content_type="application/pdf",
                metadata={"pages": 24},
            ),
            _artifact(
                4,
                ArtifactType.RECOMMENDATION,
                "Recommendations",
                "s3://optiinfra-reports/atlas/recommendations.json",
                size_bytes=45_821,
                content_type="application/json",
                metadata={"count": 8},
            ),
            _artifact(
                2,
                ArtifactType.CHART,
                "GPU utilisation",
                "s3://optiinfra-reports/atlas/gpu-utilisation.png",
                size_bytes=156_789,
                content_type="image/png",
                metadata={"width": 1600, "height": 900},
            ),
        ],
    )


def _performance_tuning(conn: Connection, report: SeedReport, base: datetime) -> None:
    """Still running: two steps are done, one is being worked on, one is still to come."""
    _record(
        conn,
        report,
        id=TUNING_RUN,
        customer_id=NIMBUS,
        agent_id=PERFORMANCE,
        workflow_type=WorkflowType.PERFORMANCE_TUNING,
        status=WorkflowStatus.RUNNING,
        start=base - timedelta(minutes=12),
        input_data={"model": "llama-70b", "target_latency_p95_ms": 250},
        steps=[
            (
                "collect_baseline",
                StepStatus.COMPLETED,
                210,
                {"latency_p95_ms": 412.7, "tokens_per_second": 1830},
            ),
            (
                "profile_inference",
                StepStatus.COMPLETED,
                305,
                {"bottleneck": "kv_cache", "gpu_memory_percent": 94.1},
            ),
            ("tune_batch_size", StepStatus.RUNNING, None, {}),
            ("validate_latency", StepStatus.PENDING, None, {}),
        ],
        artifacts=[
            _artifact(
                1,
                ArtifactType.METRICS,
                "Baseline metrics",
                "s3://optiinfra-reports/nimbus/baseline-metrics.json",
                size_bytes=18_432,
                content_type="application/json",
                metadata={"samples": 3600},
            ),
        ],
    )


def _quality_check(conn: Connection, report: SeedReport, base: datetime) -> None:
    """Failed: the answers were not good enough."""
    error = {
        "type": "QualityThresholdBreached",
        "message": "answer quality 0.78 is below the threshold of 0.85",
        "step": "compare_to_threshold",
        "retryable": True,
    }
    _record(
        conn,
        report,
        id=QUALITY_RUN,
        customer_id=INDIE,
        agent_id=APPLICATION,
        workflow_type=WorkflowType.QUALITY_CHECK,
        status=WorkflowStatus.FAILED,
        start=base - timedelta(minutes=45),
        input_data={"model": "mixtral-8x7b", "samples": 500, "threshold": 0.85},
        error_details=error,
        steps=[
            ("sample_responses", StepStatus.COMPLETED, 95, {"samples": 500}),
            ("score_quality", StepStatus.COMPLETED, 240, {"quality": 0.78, "hallucinations": 31}),
            ("compare_to_threshold", StepStatus.FAILED, 4, {}),
        ],
        artifacts=[
            _artifact(
                3,
                ArtifactType.DIAGNOSTIC,
                "Worst answers",
                "s3://optiinfra-reports/indie/worst-answers.json",
                size_bytes=88_104,
                content_type="application/json",
                metadata={"answers": 31},
            ),
            _artifact(
                None,
                ArtifactType.ALERT,
                "Quality alert",
                "s3://optiinfra-reports/indie/quality-alert.json",
                size_bytes=1_204,
                content_type="application/json",
                metadata={"channel": "pagerduty"},
            ),
        ],
    )


Step = tuple[str, StepStatus, int | None, dict[str, object]]
"""Name, status, duration in seconds where it is over, output."""


def _record(
    conn: Connection,
    report: SeedReport,
    *,
    id: UUID,
    customer_id: UUID,
    agent_id: UUID,
    workflow_type: WorkflowType,
    status: WorkflowStatus,
    start: datetime,
    steps: list[Step],
    artifacts: list[dict[str, object]],
    input_data: dict[str, object],
    output_data: dict[str, object] | None = None,
    error_details: dict[str, object] | None = None,
) -> None:
    """Write a run whose steps followed each other from start on."""
    rows: list[dict[str, object]] = []
    at = start + timedelta(seconds=2)
    for order, (name, step_status, seconds, output) in enumerate(steps, start=1):
        over_at = at + timedelta(seconds=seconds) if seconds is not None else None
        rows.append(
            {
                "step_name": name,
                "step_order": order,
                "status": step_status,
                "started_at": None if step_status == StepStatus.PENDING else at.isoformat(),
                "completed_at": over_at and over_at.isoformat(),
                "output_data": output,
                "error_details": error_details if step_status == StepStatus.FAILED else None,
            }
        )
        at = over_at or at
    found = workflow_executions.get_workflow_execution(conn, customer_id=customer_id, id=id)
    report.is_missing("workflow_steps", found, len(steps))
    report.is_missing("workflow_artifacts", found, len(artifacts))
    if report.is_missing("workflow_executions", found):
        workflow_executions.record_workflow_execution(
            conn,
            id=id,
            customer_id=customer_id,
            agent_id=agent_id,
            workflow_type=workflow_type,
            status=status,
            created_at=start,
            started_at=start,
            completed_at=None if status == WorkflowStatus.RUNNING else at + timedelta(seconds=1),
            input_data=input_data,
            output_data=output_data,
            error_details=error_details,
            metadata={"trigger": "schedule"},
            steps=rows,
            artifacts=artifacts,
        )


def _artifact(
    step_order: int | None,
    artifact_type: ArtifactType,
    name: str,
    path: str,
    *,
    size_bytes: int,
    content_type: str,
    metadata: dict[str, object],
) -> dict[str, object]:
    return {
        "step_order": step_order,
        "artifact_type": artifact_type,
        "artifact_name": name,
        "artifact_path": path,
        "artifact_size_bytes": size_bytes,
        "content_type": content_type,
        "sha256": _digest(path).hex(),
        "metadata": metadata,
    }


def _recommendations(conn: Connection, report: SeedReport) -> None:
    """Three, of which the first is approved and queued to be carried out."""
    if report.is_missing(
        "recommendations",
        recommendations.get_recommendation(conn, customer_id=ATLAS, id=RIGHTSIZE),
    ):
        recommendations.create_recommendation(
            conn,
            id=RIGHTSIZE,
            customer_id=ATLAS,
            agent_id=COST,
            workflow_execution_id=COST_RUN,
            type="rightsize_gpu",
            title="Release 4 idle GPUs",
            description="Average utilisation is 35.2 %; 4 of 12 GPUs are idle day and night.",
            estimated_savings=Decimal("35000.00"),
            confidence_score=0.92,
            priority=RecommendationPriority.HIGH,
        )
    if report.is_missing(
        "recommendations",
        recommendations.get_recommendation(conn, customer_id=ATLAS, id=TIER_STORAGE),
    ):
        recommendations.create_recommendation(
            conn,
            id=TIER_STORAGE,
            customer_id=ATLAS,
            agent_id=COST,
            workflow_execution_id=COST_RUN,
            type="tier_storage",
            title="Move cold data to archive storage",
            description="62 % of 45.2 TB was not read in 90 days.",
            estimated_savings=Decimal("15000.00"),
            confidence_score=0.88,
        )
    if report.is_missing(
        "recommendations",
        recommendations.get_recommendation(conn, customer_id=NIMBUS, id=BATCH_REQUESTS),
    ):
        recommendations.create_recommendation(
            conn,
            id=BATCH_REQUESTS,
            customer_id=NIMBUS,
            agent_id=PERFORMANCE,
            workflow_execution_id=TUNING_RUN,
            type="batch_requests",
            title="Batch requests to llama-70b",
            estimated_improvement=Decimal("1.80"),
            confidence_score=0.71,
            priority=RecommendationPriority.HIGH,
        )
    if report.is_missing("approvals", approvals.get_approval(conn, customer_id=ATLAS, id=APPROVAL)):
        approvals.create_approval(conn, id=APPROVAL, customer_id=ATLAS, recommendation_id=RIGHTSIZE)
        approvals.decide_approval(
            conn,
            customer_id=ATLAS,
            id=APPROVAL,
            status=ApprovalStatus.APPROVED,
            approved_by="cfo@atlas.example",
            comment="Keep two in reserve until the end of the quarter.",
        )
    if report.is_missing(
        "optimizations", optimizations.get_optimization(conn, customer_id=ATLAS, id=OPTIMIZATION)
    ):
        optimizations.create_optimization(
            conn,
            id=OPTIMIZATION,
            customer_id=ATLAS,
            recommendation_id=RIGHTSIZE,
            agent_id=RESOURCE,
        )


def _events(conn: Connection, report: SeedReport, base: datetime) -> None:
    for number, customer, agent, minutes, event_type, severity, subject, data in (
        (
            0x51,
            ATLAS,
            COST,
            105,
            "cost.savings_found",
            EventSeverity.INFO,
            ("workflow_execution", COST_RUN),
            {"savings_usd": 60000},
        ),
        (
            0x52,
            NIMBUS,
            PERFORMANCE,
            9,
            "performance.latency_high",
            EventSeverity.WARNING,
            ("workflow_execution", TUNING_RUN),
            {"latency_p95_ms": 412.7},
        ),
        (
            0x53,
            INDIE,
            APPLICATION,
            39,
            "quality.threshold_breached",
            EventSeverity.ERROR,
            ("workflow_execution", QUALITY_RUN),
            {"quality": 0.78, "threshold": 0.85},
        ),
    ):
        created_at = base - timedelta(minutes=minutes)
        found = events.get_event(conn, customer_id=customer, created_at=created_at, id=_id(number))
        if report.is_missing("events", found):
            events.create_event(
                conn,
                id=_id(number),
                customer_id=customer,
                created_at=created_at,
                agent_id=agent,
                event_type=event_type,
                severity=severity,
                subject_type=subject[0],
                subject_id=subject[1],
                data=data,
            )


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
