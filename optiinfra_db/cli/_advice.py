"""What a person may do about a run, in the words to type."""

from datetime import UTC, datetime, timedelta

from optiinfra_db._words import ago
from optiinfra_db.generated.models import StepStatus, WorkflowStatus
from optiinfra_db.shapes import Attempt, Workflow

SILENT = timedelta(minutes=5)
"""How long an executor may be silent before it is taken for dead."""


def advice(run: Workflow, now: datetime | None = None) -> list[str]:
    """Return sentences and commands, the most useful first; none where nothing is to be done."""
    now = now or datetime.now(UTC)
    if run.status is WorkflowStatus.RUNNING:
        return list(_of_running(run, now))
    if run.status is WorkflowStatus.PENDING:
        return [
            f"It waits for {run.agent}. See whether that works: optiinfra-db agents list",
            f"cancel with: optiinfra-db workflows cancel {run.id}",
        ]
    if run.status is WorkflowStatus.COMPLETED:
        return [
            f"decide on it with: optiinfra-db recommendations approve {proposed.id}"
            for proposed in run.recommendations
            if proposed.status == "pending"
        ]
    later = _later_attempt(run)
    if later:
        return [
            f"It was tried again, which is {later.status}: optiinfra-db workflows show {later.id}",
            f"compare the two with: optiinfra-db workflows diff {run.id} {later.id}",
        ]
    said = [f"retry with: optiinfra-db workflows retry {run.id}"]
    done = [step for step in run.steps if step.status is StepStatus.COMPLETED]
    if done:
        said.append(f"do all of it again with: optiinfra-db workflows retry {run.id} --from-step 1")
    return said


def _of_running(run: Workflow, now: datetime) -> list[str]:
    said = [f"follow it with: optiinfra-db workflows watch --customer {run.customer_id}"]
    if run.deadline_at and run.deadline_at < now:
        said.insert(0, f"It is past its deadline of {ago(run.deadline_at, now)}.")
    heard_at = run.heartbeat_at or run.started_at
    if heard_at and now - heard_at > SILENT:
        said.insert(
            0,
            f"Its executor was last heard of {ago(heard_at, now)}, and may be dead. "
            f"End it with: optiinfra-db workflows cancel {run.id}",
        )
    return said


def _later_attempt(run: Workflow) -> Attempt | None:
    later = [attempt for attempt in run.attempts if attempt.attempt > run.attempt]
    return later[-1] if later else None
