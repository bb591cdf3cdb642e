"""Calls of each query on the long history, with work to do."""

import hashlib
from collections.abc import Callable, Collection, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
from psycopg.rows import namedtuple_row

from optiinfra_db.generated.agent_metrics import CopyAgentMetricsParams
from optiinfra_db.generated.event_seals import SEAL_EVENTS
from optiinfra_db.generated.events import CopyEventsParams
from optiinfra_db.generated.models import (
    AgentStatusDetail,
    AgentType,
    ApprovalStatus,
    ArtifactType,
    EventSeverity,
    MetricType,
    RecommendationPriority,
    RecommendationStatus,
    WorkflowStatus,
    WorkflowType,
)

Arguments = dict[str, Any]
ZERO_ID = UUID(int=0)


class Sample:
    """Rows of the history to call functions with, those of one customer."""

    def __init__(self, conn: psycopg.Connection[Any], customer: str) -> None:
        self._conn = conn
        self.customer = self._customer(customer)
        self.now: datetime = self._one("SELECT now()")[0]
        self.since = self.now - timedelta(days=2)
        self.small_customer = self._customer("Customer 49")
        self.agent = self._one(
            "SELECT agent_id FROM workflow_executions WHERE status = 'pending' LIMIT 1"
        )[0]
        self.retired_agent = self._one("SELECT id FROM agents WHERE name = 'agent-13'")[0]

    def _one(self, query: str, **values: Any) -> Any:
        with self._conn.cursor(row_factory=namedtuple_row) as cursor:
            rows = cursor.execute(query.encode(), values).fetchall()
        if not rows:
            raise LookupError(query)
        return rows[-1]

    def _customer(self, name: str) -> UUID:
        customer: UUID = self._one("SELECT id FROM customers WHERE name = %(name)s", name=name).id
        return customer

    def row(self, table: str, condition: str = "true") -> Any:
        """Return a row of the customer; LookupError where it has none."""
        return self._one(
            f"SELECT * FROM {table} WHERE customer_id = %(customer)s AND ({condition}) "
            "ORDER BY id LIMIT 4",
            customer=self.customer,
        )

    def run(self, status: str) -> Arguments:
        """Return the key of a run in this state."""
        return _key(self.row("workflow_executions", f"status = '{status}'"))

    def step(self, status: str) -> Arguments:
        """Return the key of a step in this state, of a running run."""
        step = self.row(
            "workflow_steps",
            f"status = '{status}' AND (SELECT status FROM workflow_executions AS run WHERE "
            "run.customer_id = workflow_steps.customer_id AND run.id = workflow_execution_id"
            ") = 'running'",
        )
        return _key(step) | {"workflow_execution_id": step.workflow_execution_id}

    def last_step(self) -> Arguments:
        """Return the key of a running step, as what finishes its run knows it."""
        step = self.step("running")
        return {
            "customer_id": step["customer_id"],
            "id": step["workflow_execution_id"],
            "workflow_step_id": step["id"],
        }

    def finished_run(self) -> Arguments:
        """Return a run that is over, with steps and artifacts, as it is imported."""
        return {
            "agent_id": str(self.agent),
            "workflow_type": "cost_analysis",
            "status": "completed",
            "started_at": self.since.isoformat(),
            "completed_at": self.now.isoformat(),
            "steps": [
                {
                    "step_name": f"step {order}",
                    "step_order": order,
                    "status": "completed",
                    "started_at": self.since.isoformat(),
                    "completed_at": self.now.isoformat(),
                }
                for order in range(1, 6)
            ],
            "artifacts": [
                NEW_ARTIFACT | {"step_order": order, "artifact_path": f"s3://reports/{order}"}
                for order in (4, 5)
            ],
        }

    def of_run(self, status: str = "completed") -> Arguments:
        """Return the key of a run, as its children know it."""
        run = self.run(status)
        return {"customer_id": run["customer_id"], "workflow_execution_id": run["id"]}

    def first_event(self) -> UUID:
        """Return an event of the first that are sealed."""
        event_id: UUID = self._one(
            "SELECT id FROM (SELECT customer_id, id FROM events ORDER BY xact_id, id LIMIT 500) "
            "AS first_events WHERE customer_id = %(customer)s ORDER BY id LIMIT 1",
            customer=self.customer,
        ).id
        return event_id

    def failed_run(self) -> Arguments:
        """Return the key of a run that failed and was not retried."""
        return _key(self.row("workflow_executions", f"status = 'failed' AND NOT {_IS_RETRIED}"))

    def retried_run(self) -> Arguments:
        """Return the key of a run that was retried."""
        return _key(self.row("workflow_executions", f"status = 'failed' AND {_IS_RETRIED}"))

    def some_ended_runs(self) -> Arguments:
        """Return the keys of runs that are over and were not retried."""
        ids = [self.run("completed")["id"], self.failed_run()["id"]]
        return {"customer_id": self.customer, "ids": ids}

    def artifact(self) -> Arguments:
        """Return the key of an artifact of a step."""
        row = self.row("workflow_artifacts", "workflow_step_id IS NOT NULL")
        return _key(row) | {"workflow_execution_id": row.workflow_execution_id}

    def artifact_step(self) -> Arguments:
        """Return the key of a step that left an artifact, as that knows it."""
        row = self.row("workflow_artifacts", "workflow_step_id IS NOT NULL")
        return {
            "workflow_execution_id": row.workflow_execution_id,
            "workflow_step_id": row.workflow_step_id,
        }

    def recommendation(self, status: str) -> Arguments:
        """Return the key of a recommendation in this state."""
        return _key(self.row("recommendations", f"status = '{status}'"))

    def pending_approval(self) -> Arguments:
        """Return the key of an approval that waits."""
        return _key(self.row("approvals", "status = 'pending'"))

    def optimization(self, status: str) -> Arguments:
        """Return the key of an optimization in this state."""
        return _key(self.row("optimizations", f"status = '{status}'"))


NEW_ARTIFACT = {
    "artifact_type": "report",
    "artifact_name": "Report",
    "artifact_path": "s3://reports/new",
    "artifact_size_bytes": 1,
    "content_type": "application/pdf",
    "sha256": "00" * 32,
}
"""What a step leaves."""

_IS_RETRIED = (
    "EXISTS (SELECT FROM workflow_executions AS retry WHERE "
    "retry.customer_id = workflow_executions.customer_id "
    "AND retry.retried_from_id = workflow_executions.id)"
)


def _key(row: Any) -> Arguments:
    return {"customer_id": row.customer_id, "id": row.id}


def id_range(key: Arguments) -> Arguments:
    """Return the ids that begin like this one, up to its time."""
    digits = key["id"].hex[:12]
    return {"first_id": UUID(digits.ljust(32, "0")), "last_id": UUID(digits.ljust(32, "f"))}


Case = Callable[[Sample], Arguments]

DEFAULTS: Mapping[str, Case] = {
    "agent_id": lambda s: {"agent_id": s.agent},
    "customer_id": lambda s: {"customer_id": s.customer},
    "max_rows": lambda _: {"max_rows": 50},
    "since": lambda s: {"since": s.since},
    "until": lambda s: {"until": s.now},
    "metric_name": lambda _: {"metric_name": "metric_1"},
    "silent_for": lambda _: {"silent_for": timedelta(minutes=5)},
    "capability_name": lambda _: {"capability_name": "capability-1"},
    "config_key": lambda _: {"config_key": "key-1"},
}
"""What a parameter is, where a case does not say."""

CASES: Mapping[str, Case | list[Case]] = {
    "access.leave_tenant": lambda _: {"former_role": "none", "former_customer_id": ""},
    "access.set_actor": lambda _: {"actor": "cost-agent"},
    "agent_capabilities.set_agent_capability_enabled": lambda _: {"enabled": False},
    "agent_configs.upsert_agent_config": lambda _: {"config_value": "other"},
    "agent_metrics.copy_agent_metrics": lambda s: {
        "rows": [
            CopyAgentMetricsParams(
                agent_id=s.agent,
                metric_name="metric_1",
                recorded_at=s.now,
                metric_value=1.0,
                metric_type=MetricType.GAUGE,
                tags={},
            )
        ]
    },
    "agent_metrics.create_agent_metric": lambda _: {"metric_value": 1.0},
    "agent_metrics.list_agent_metric_buckets": lambda _: {"bucket": timedelta(hours=1)},
    "agent_metrics.list_agent_metric_rates": lambda _: {"bucket": timedelta(hours=1)},
    "agent_states.acquire_agent_lock": lambda _: {
        "resource": "gpu-1",
        "lease": timedelta(minutes=1),
    },
    "agent_states.extend_agent_lock": lambda _: {
        "resource": "gpu-0",
        "token": ZERO_ID,
        "lease": timedelta(minutes=1),
    },
    "agent_states.list_agent_states_by_workflow": lambda s: s.of_run("running"),
    "agent_states.release_agent_lock": lambda _: {"resource": "gpu-0", "token": ZERO_ID},
    "agent_states.set_agent_current_workflow": lambda s: s.of_run("running"),
    "agent_states.upsert_agent_state": lambda _: {"current_status": AgentStatusDetail.BUSY},
    "agents.delete_agent": lambda s: {"id": s.retired_agent},
    "agents.fail_stale_agents": lambda s: {"cutoff": s.now - timedelta(minutes=10)},
    "agents.get_agent": lambda s: {"id": s.agent},
    "agents.get_agent_by_name": lambda _: {"type": AgentType.PERFORMANCE, "name": "agent-2"},
    "agents.list_agents_by_type": lambda _: {"type": AgentType.PERFORMANCE},
    "agents.record_agent_heartbeat": [
        lambda s: {"id": s.agent},
        lambda s: {"id": s.agent, "resource_usage": {"cpu_percent": 1.5}},
    ],
    "agents.upsert_agent": lambda _: {
        "type": AgentType.PERFORMANCE,
        "name": "agent-2",
        "version": "2",
    },
    "api_keys.authenticate_api_key": lambda _: {"api_key_hash": hashlib.sha256(b"7").digest()},
    "api_keys.create_api_key": lambda _: {"api_key_hash": bytes(32)},
    "api_keys.revoke_api_key": lambda s: _key(s.row("api_keys")),
    "api_keys.rotate_api_key": lambda _: {
        "api_key_hash": bytes(32),
        "overlap": timedelta(hours=1),
    },
    "approvals.create_approval": lambda s: {
        "recommendation_id": s.row("recommendations", "status = 'completed'").id
    },
    "approvals.decide_approval": lambda s: (
        s.pending_approval() | {"status": ApprovalStatus.APPROVED, "approved_by": "ada"}
    ),
    "approvals.delete_approval": lambda s: s.pending_approval(),
    "approvals.get_approval": lambda s: s.pending_approval(),
    "approvals.list_recommendation_approvals": lambda s: {
        "recommendation_id": s.row("recommendations").id
    },
    "customers.create_customer": lambda _: {
        "name": "New",
        "email": "new@example.com",
        "api_key_hash": bytes(32),
    },
    "customers.delete_customer": lambda s: {"id": s.small_customer},
    "customers.get_customer": lambda s: {"id": s.customer},
    "customers.get_customer_by_email": lambda _: {"email": "customer-7@example.com"},
    "customers.update_customer": lambda s: {"id": s.customer, "name": "Other"},
    "event_seals.list_canonical_events": [
        lambda _: {},
        lambda s: {"after_created_at": s.since, "after_id": ZERO_ID},
    ],
    "event_seals.list_canonical_events_by_subject": lambda s: {
        "subject_ids": [s.run("completed")["id"], s.run("failed")["id"]]
    },
    "event_seals.list_event_seal_entries": [
        lambda _: {},
        lambda s: {"event_ids": [s.first_event()]},
    ],
    "event_seals.seal_events": lambda _: {"max_events": 500},
    "events.copy_events": lambda s: {
        "rows": [
            CopyEventsParams(
                customer_id=s.customer,
                created_at=s.now,
                agent_id=None,
                event_type="note.taken",
                severity=EventSeverity.INFO,
                subject_type=None,
                subject_id=None,
                actor="ada",
                data={},
            )
        ]
    },
    "events.create_event": lambda _: {"event_type": "note.taken"},
    "events.get_event": lambda s: (
        _key(s.row("events")) | {"created_at": s.row("events").created_at}
    ),
    "events.list_events": [
        lambda _: {},
        lambda s: {
            "before_created_at": s.row("events").created_at,
            "before_id": s.row("events").id,
        },
    ],
    "events.list_events_by_agent": [
        lambda _: {},
        lambda s: {"before_created_at": s.since, "before_id": s.customer},
    ],
    "events.list_events_by_subject": lambda s: {"subject_id": s.run("failed")["id"]},
    "events.read_events": lambda _: {"after_xact_id": 100, "after_id": ZERO_ID},
    "legal_holds.place_legal_hold": lambda s: {
        "reason": "case 7",
        "workflow_execution_id": s.run("completed")["id"],
    },
    "legal_holds.release_legal_hold": lambda _: {"id": ZERO_ID},
    "optimizations.complete_optimization": lambda s: s.optimization("executing"),
    "optimizations.create_optimization": lambda s: {
        "recommendation_id": s.row("recommendations", "status = 'approved'").id
    },
    "optimizations.delete_optimization": lambda s: s.optimization("completed"),
    "optimizations.fail_optimization": lambda s: s.optimization("executing") | {"error": "quota"},
    "optimizations.get_optimization": lambda s: s.optimization("completed"),
    "optimizations.list_recommendation_optimizations": lambda s: {
        "recommendation_id": s.row("optimizations").recommendation_id
    },
    "optimizations.list_workflow_optimizations": lambda s: {
        "workflow_execution_id": s.row("optimizations").workflow_execution_id
    },
    "optimizations.roll_back_optimization": lambda s: s.optimization("completed"),
    "optimizations.start_optimization": lambda s: s.optimization("queued"),
    "optimizations.update_optimization_progress": lambda s: (
        s.optimization("executing") | {"progress": 50}
    ),
    "partitions.ensure_partitions": lambda _: {"months_ahead": 4},
    "receipts.create_receipt": lambda _: {"operation": "prune", "row_counts": {"events": 1}},
    "retention_policies.delete_retention_policy": lambda _: {"id": ZERO_ID},
    "retention_policies.set_retention_policy": lambda _: {
        "table_name": "workflow_executions",
        "keep_for": timedelta(days=90),
    },
    "recommendations.approve_recommendation": lambda s: s.recommendation("pending"),
    "recommendations.create_recommendation": lambda _: {"type": "kind_1", "title": "Title"},
    "recommendations.delete_recommendation": lambda s: s.recommendation("completed"),
    "recommendations.get_recommendation": lambda s: s.recommendation("completed"),
    "recommendations.get_recommendation_trace": lambda s: s.recommendation("completed"),
    "recommendations.list_open_recommendations": [
        lambda _: {"agent_id": None},
        lambda s: {
            "before_id": s.recommendation("executing")["id"],
            "agent_id": None,
            "status": RecommendationStatus.PENDING,
            "min_savings": Decimal(1),
        },
        lambda _: {"agent_id": None, "priority": RecommendationPriority.LOW, "max_rows": 5},
    ],
    "recommendations.list_open_recommendations_by_savings": [
        lambda _: {"agent_id": None},
        lambda s: {
            "before_id": s.recommendation("executing")["id"],
            "before_savings": Decimal(100),
            "agent_id": None,
            "status": RecommendationStatus.PENDING,
        },
        lambda _: {"agent_id": None, "priority": RecommendationPriority.LOW, "max_rows": 5},
    ],
    "recommendations.list_recent_recommendations_by_status": [
        lambda _: {"status": RecommendationStatus.PENDING},
        lambda _: {"status": RecommendationStatus.COMPLETED},
    ],
    "recommendations.list_recommendations": [
        lambda _: {},
        lambda s: {"before_id": s.recommendation("executing")["id"]},
    ],
    "recommendations.list_recommendations_by_id_range": lambda s: id_range(
        s.recommendation("executing")
    ),
    "recommendations.list_recommendations_by_priority": [
        lambda _, priority=priority: {"priority": priority} for priority in RecommendationPriority
    ],
    "recommendations.list_recommendations_by_savings": [
        lambda _: {},
        lambda _: {"min_savings": Decimal(100), "before_savings": Decimal(200)},
    ],
    "recommendations.list_recommendations_by_status": [
        lambda _, status=status: {"status": status}
        for status in (
            RecommendationStatus.PENDING,
            RecommendationStatus.EXECUTING,
            RecommendationStatus.COMPLETED,
            RecommendationStatus.ROLLED_BACK,
        )
    ],
    "recommendations.list_recommendations_by_type": lambda _: {"type": "kind_1"},
    "recommendations.list_savings": [
        lambda _: {},
        lambda s: {"since": s.now - timedelta(days=200)},
    ],
    "recommendations.list_workflow_recommendations": lambda s: {
        "workflow_execution_id": s.row("recommendations").workflow_execution_id
    },
    "recommendations.reject_recommendation": lambda s: s.recommendation("pending"),
    "workflow_artifacts.delete_workflow_artifact": lambda s: s.artifact(),
    "workflow_artifacts.get_workflow_artifact": lambda s: s.artifact(),
    "workflow_artifacts.list_artifacts_by_type": lambda _: {"artifact_type": ArtifactType.CHART},
    "workflow_artifacts.list_step_artifacts": lambda s: s.artifact_step(),
    "workflow_artifacts.list_workflow_artifacts": lambda s: s.of_run(),
    "workflow_artifacts.register_workflow_artifact": lambda s: (
        s.of_run()
        | {
            "artifact_type": ArtifactType.REPORT,
            "artifact_name": "Report",
            "artifact_path": "s3://reports/new",
            "artifact_size_bytes": 1,
            "content_type": "application/pdf",
            "sha256": bytes(32),
        }
    ),
    "workflow_artifacts.update_workflow_artifact_metadata": lambda s: (
        s.artifact() | {"metadata": {"pages": 2}}
    ),
    "workflow_executions.begin_workflow_execution": lambda s: s.run("pending"),
    "workflow_executions.cancel_workflow_execution": lambda s: (
        s.run("running") | {"reason": "no longer wanted"}
    ),
    "workflow_executions.complete_workflow_execution": lambda s: s.run("running") | {"attempt": 1},
    "workflow_executions.complete_workflow_executions": lambda s: {
        "customer_ids": [s.customer] * 2,
        "ids": [s.run("running")["id"], ZERO_ID],
        "attempts": [1, 1],
        "output_data": [{"found": 12}, None],
    },
    "workflow_executions.create_workflow_execution": lambda _: {
        "workflow_type": WorkflowType.COST_ANALYSIS,
        "step_names": ["collect", "analyze"],
    },
    "workflow_executions.delete_ended_workflow_executions": lambda s: s.some_ended_runs(),
    "workflow_executions.delete_workflow_execution": lambda s: s.run("completed"),
    "workflow_executions.fail_workflow_execution": lambda s: (
        s.run("running") | {"attempt": 1, "error_details": {"message": "quota"}}
    ),
    "workflow_executions.finish_workflow_execution": [
        lambda s: s.last_step() | {"retry_count": 0},
        lambda s: s.last_step() | {"retry_count": 0, "artifacts": [NEW_ARTIFACT]},
    ],
    "workflow_executions.get_workflow_detail": lambda s: s.run("completed"),
    "workflow_executions.get_workflow_execution": lambda s: s.run("completed"),
    "workflow_executions.get_workflow_lineage": lambda s: s.retried_run(),
    "workflow_executions.get_workflow_timeline": lambda s: s.run("failed"),
    "workflow_executions.heartbeat_workflow_execution": lambda s: s.run("running") | {"attempt": 1},
    "workflow_executions.list_prunable_workflow_executions": [
        lambda _: {"workflow_types": list(WorkflowType), "older_than": timedelta(days=90)},
        lambda s: {
            "workflow_types": list(WorkflowType),
            "older_than": timedelta(days=1),
            "after_completed_at": s.now - timedelta(days=60),
            "after_id": ZERO_ID,
        },
    ],
    "workflow_executions.list_recent_workflows_by": [
        lambda _: {},
        lambda _: {"agent_id": None, "status": WorkflowStatus.COMPLETED},
        lambda _: {"agent_id": None, "status": WorkflowStatus.CANCELLED},
        lambda _: {"agent_id": None, "workflow_type": WorkflowType.COST_ANALYSIS},
    ],
    "workflow_executions.list_workflow_executions_by_id_range": lambda s: id_range(
        s.run("completed")
    ),
    "workflow_executions.list_workflow_executions_by_status": [
        lambda _: {"status": WorkflowStatus.CANCELLED},
        lambda _: {"status": WorkflowStatus.COMPLETED},
        lambda _: {"status": WorkflowStatus.RUNNING},
    ],
    "workflow_executions.list_workflow_executions_by_type": lambda _: {
        "workflow_type": WorkflowType.COST_ANALYSIS
    },
    "workflow_executions.lock_ended_workflow_executions": lambda s: s.some_ended_runs(),
    "workflow_executions.record_workflow_execution": lambda s: {
        "workflow_type": WorkflowType.COST_ANALYSIS,
        "status": WorkflowStatus.COMPLETED,
        "started_at": s.since,
        "completed_at": s.now,
        "steps": [
            {
                "step_name": "collect",
                "step_order": 1,
                "status": "skipped",
                "completed_at": s.now.isoformat(),
            }
        ],
        "artifacts": [],
    },
    "workflow_executions.record_workflow_executions": lambda s: {
        "runs": [{"id": str(s.run("completed")["id"])} | s.finished_run()]
        + [s.finished_run() for _ in range(100)]
    },
    "workflow_executions.retry_failed_workflow_executions": lambda _: {
        "workflow_type": WorkflowType.COST_ANALYSIS
    },
    "workflow_executions.retry_workflow_execution": lambda s: s.failed_run(),
    "workflow_executions.start_workflow_execution": lambda s: s.run("pending"),
    "workflow_executions.time_out_workflow_execution": lambda s: _key(
        s.row("workflow_executions", "status = 'running' AND deadline_at < now()")
    ),
    "workflow_steps.add_workflow_step": lambda s: s.of_run("running") | {"step_name": "extra"},
    "workflow_steps.advance_workflow_step": [
        lambda s: s.step("running") | {"retry_count": 0},
        lambda s: s.step("running") | {"retry_count": 0, "artifacts": [NEW_ARTIFACT]},
    ],
    "workflow_steps.complete_workflow_step": lambda s: s.step("running") | {"retry_count": 0},
    "workflow_steps.fail_workflow_step": lambda s: (
        s.step("running")
        | {"retry_count": 0, "retryable": True, "error_details": {"message": "quota"}}
    ),
    "workflow_steps.get_workflow_step": lambda s: s.step("running"),
    "workflow_steps.list_workflow_steps": lambda s: s.of_run(),
    "workflow_steps.skip_workflow_step": lambda s: s.step("running") | {"retry_count": 0},
    "workflow_steps.start_workflow_step": lambda s: s.step("pending"),
}
"""The arguments of each query that DEFAULTS do not tell; several where it has ways to go."""

_LOCKED = (
    "UPDATE agent_states SET locks = jsonb_build_object('gpu-0', jsonb_build_object("
    "'token', '00000000-0000-0000-0000-000000000000'::uuid, 'acquired_at', now(), "
    "'expires_at', now() + interval '1 hour'))"
)

_NO_OPEN_STEPS = (
    "UPDATE workflow_steps SET status = 'skipped', completed_at = now(), "
    "next_attempt_at = NULL WHERE status IN ('pending', 'running', 'retrying') AND EXISTS ("
    "SELECT FROM workflow_executions AS run WHERE run.customer_id = workflow_steps.customer_id "
    "AND run.id = workflow_execution_id AND run.status = 'running')"
)

_SEALED = SEAL_EVENTS.replace("$1", "500")

_HELD = (
    "INSERT INTO legal_holds (customer_id, id, reason) "
    "SELECT id, '00000000-0000-0000-0000-000000000000', 'case 7' FROM customers "
    "WHERE name = 'Customer 1' ON CONFLICT DO NOTHING"
)
_POLICY = (
    "INSERT INTO retention_policies (id, table_name, keep_for) "
    "VALUES ('00000000-0000-0000-0000-000000000000', 'events', '1 year') ON CONFLICT DO NOTHING"
)

BEFORE: Mapping[str, str] = {
    "legal_holds.list_legal_holds": _HELD,
    "legal_holds.release_legal_hold": _HELD,
    "partitions.list_held_customers": _HELD,
    "receipts.list_receipts": (
        "INSERT INTO receipts (operation, row_counts) SELECT 'prune', '{}' "
        "FROM generate_series(1, 20000)"
    ),
    "retention_policies.delete_retention_policy": _POLICY,
    "retention_policies.list_retention_policies": _POLICY,
    "event_seals.list_event_seal_entries": _SEALED,
    "event_seals.list_event_seal_heads": _SEALED,
    "event_seals.list_event_seals": _SEALED,
    "event_seals.verify_event_seals": _SEALED,
    "event_seals.find_unsealed_events": _SEALED,
    "agent_states.extend_agent_lock": _LOCKED,
    "agent_states.list_agent_locks": _LOCKED,
    "agent_states.list_agent_states_by_workflow": (
        "UPDATE agent_states SET (current_workflow_customer_id, current_workflow_id) = ("
        "SELECT customer_id, id FROM workflow_executions WHERE status = 'running' AND customer_id ="
        " (SELECT id FROM customers WHERE name = 'Customer 1') ORDER BY id OFFSET 3 LIMIT 1)"
    ),
    "agent_states.release_agent_lock": _LOCKED,
    "approvals.list_expired_approvals": (
        "UPDATE approvals SET expires_at = now() WHERE status = 'pending'"
    ),
    "workflow_executions.complete_workflow_execution": _NO_OPEN_STEPS,
    "workflow_executions.complete_workflow_executions": _NO_OPEN_STEPS,
    "workflow_executions.finish_workflow_execution": (
        "UPDATE workflow_steps SET status = 'skipped', completed_at = now(), "
        "next_attempt_at = NULL WHERE status IN ('pending', 'retrying') AND EXISTS ("
        "SELECT FROM workflow_executions AS run WHERE run.customer_id = workflow_steps.customer_id "
        "AND run.id = workflow_execution_id AND run.status = 'running')"
    ),
}
"""What has to be done first, in the same transaction."""

FINDS_NOTHING = {
    "access.grant_access",
    "access.is_distributed",
    "access.leave_tenant",
    "access.list_roles_without_group",
    "access.set_actor",
    "doctor.count_events_from_the_future",
    "doctor.find_gaps_in_audit_log",
    "doctor.find_missing_guards",
    "doctor.find_open_steps_of_ended_runs",
    "doctor.find_states_unlike_audit_log",
    "doctor.find_times_out_of_order",
    "event_seals.find_unsealed_events",
    "housekeeping.await_legal_holds",
    "housekeeping.end_housekeeping",
    "monitoring.get_oldest_transaction",
    "monitoring.list_vacuum_blockers",
}
"""Queries that look for what is not to be there."""

RUNS_ONCE = {"events.forget_event_xact_ids"}
"""Queries that call a function and have no plan of their own; this one rewrites a large table."""


def arguments(sample: Sample, name: str, parameters: Collection[str]) -> list[Arguments]:
    """Return the arguments of each call of a query; LookupError where the customer has no row."""
    defaults: Arguments = {}
    for parameter in parameters:
        if parameter in DEFAULTS:
            defaults |= DEFAULTS[parameter](sample)
    cases = CASES.get(name, lambda _: {})
    return [defaults | case(sample) for case in (cases if isinstance(cases, list) else [cases])]
