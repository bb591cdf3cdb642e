"""What the page of a run says."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from optiinfra_db import _words
from optiinfra_db.generated.models import StepStatus, WorkflowStatus
from optiinfra_db.pages import _charts
from optiinfra_db.pages._templates import as_json
from optiinfra_db.shapes import Span, Step, TimelineEntry, Workflow

_MANY = 40  # entries, which are folded
_SUBJECTS = {
    "workflow_execution": "Run",
    "workflow_step": "Step",
    "workflow_artifact": "Artifact",
}


class Advice(NamedTuple):
    """What to do next: in words, with a command, or both."""

    words: str
    command: str


class Failure(NamedTuple):
    """What went wrong, and on what."""

    where: str
    step: Step | None
    kind: str
    message: str
    traceback: str
    rest: dict[str, Any]
    input_of: str
    input_data: Any


class StepLine(NamedTuple):
    """A step in the table."""

    step: Step
    waited_seconds: float | None
    took_seconds: float | None
    attempts: list[Span]


class Happening(NamedTuple):
    """Something that happened."""

    entry: TimelineEntry
    after_seconds: float
    subject: str
    error: str


def context(run: Workflow, advice: Sequence[str], now: datetime) -> dict[str, object]:
    """Return what the template says."""
    until = max(run.completed_at or now, run.started_at or run.created_at)
    steps = [_line(step, until) for step in run.steps]
    return {
        "run": run,
        "now": now,
        "until": until,
        "took_seconds": (until - run.started_at).total_seconds() if run.started_at else None,
        "retries": sum(step.retry_count for step in run.steps),
        "advice": [_advice(sentence) for sentence in advice],
        "failure": _failure(run),
        "chart_of_steps": _charts.time_line(run.steps, run.started_at, until)
        if run.started_at and any(step.spans for step in run.steps)
        else None,
        "charted": _charts.MAX_STEPS,
        "summary": _summary(run, steps),
        "steps": steps,
        "tried_again": [line for line in steps if len(line.attempts) > 1],
        "told": [step for step in run.steps if _has_payload(step)],
        "happenings": [_happening(entry, run) for entry in run.timeline],
        "is_long": len(run.timeline) > _MANY,
        "rest_of_payload": f"optiinfra-db workflows show {run.id} --json",
    }


def _advice(sentence: str) -> Advice:
    words, command, rest = sentence.partition("optiinfra-db ")
    return Advice(words.strip(), command + rest)


def _failure(run: Workflow) -> Failure | None:
    step = run.failed_step
    error = (step.error_details if step else None) or run.error_details
    if not error:
        return None
    has_input = step is not None and step.input_data not in (None, {})
    known = {"type", "message", "traceback"}
    return Failure(
        where=f"Step {step.step_order}" if step else "The run",
        step=step,
        kind=str(error.get("type") or ""),
        message=str(error.get("message") or ""),
        traceback=str(error.get("traceback") or ""),
        rest={name: value for name, value in error.items() if name not in known},
        input_of="the step" if has_input else "the run",
        input_data=step.input_data if step and has_input else run.input_data,
    )


def _line(step: Step, until: datetime) -> StepLine:
    attempts = step.attempts
    waiting = [span for span in step.spans if span.kind == "waiting"]
    took = step.duration_seconds
    if took is None and attempts:
        took = _seconds(attempts[-1], until)
    return StepLine(
        step=step,
        waited_seconds=sum(_seconds(span, until) for span in waiting) if step.spans else None,
        took_seconds=took,
        attempts=attempts,
    )


def _seconds(span: Span, until: datetime) -> float:
    return max(((span.ended_at or until) - span.started_at).total_seconds(), 0)


def _summary(run: Workflow, steps: Sequence[StepLine]) -> str:
    """Say in a sentence what the time line shows."""
    if not steps:
        return "It has no steps."
    if run.started_at is None:
        waits = run.status is WorkflowStatus.PENDING
        return "It waits to be started." if waits else "It was never started."
    ran = [line for line in steps if line.took_seconds is not None and line.attempts]
    if not ran:
        return "No step has run yet." if run.completed_at is None else "No step has run."
    longest = max(ran, key=lambda line: line.took_seconds or 0)
    said = (
        f"{len(ran)} of {len(steps)} {'step' if len(steps) == 1 else 'steps'} ran. "
        f"The longest, step {longest.step.step_order}, "
        f"{'runs' if longest.step.status is StepStatus.RUNNING else 'ran'} for "
        f"{_words.duration(longest.took_seconds)}."
    )
    retries = sum(line.step.retry_count for line in steps)
    if retries:
        said += f" Steps were tried again {'once' if retries == 1 else f'{retries} times'}."
    return said


def _has_payload(step: Step) -> bool:
    return any(
        value not in (None, {}) for value in (step.input_data, step.output_data, step.error_details)
    )


def _happening(entry: TimelineEntry, run: Workflow) -> Happening:
    subject = _SUBJECTS.get(entry.subject_type, entry.subject_type)
    if entry.step_order is not None:
        subject += f" {entry.step_order}"
    error = entry.error
    if isinstance(error, dict) and error.get("message"):
        error = error["message"]
    return Happening(
        entry=entry,
        after_seconds=(entry.happened_at - run.created_at).total_seconds(),
        subject=subject,
        error="" if error in (None, {}) else error if isinstance(error, str) else as_json(error),
    )
