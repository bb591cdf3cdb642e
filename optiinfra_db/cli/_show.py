"""A run in the terminal: how far it is, its time line, what went wrong, what it left."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from optiinfra_db import _words
from optiinfra_db.cli._advice import advice
from optiinfra_db.cli._shared import plain, status_text
from optiinfra_db.shapes import Span, Step, Workflow

_NARROW = 100
_MAX_PAYLOAD = 2000  # characters; --json has all


def run_panel(
    run: Workflow, *, utc: bool, width: int, now: datetime | None = None
) -> RenderableType:
    """Show a run. Times are said as how long ago, with `utc` exactly."""
    now = now or datetime.now(UTC)
    parts: list[RenderableType] = [_header(run, utc=utc, now=now), _steps(run, width, now)]
    if run.error_details:
        parts.append(_error(run))
    if run.artifacts:
        parts.append(_artifacts(run, width))
    if run.recommendations:
        parts.append(_recommendations(run))
    if len(run.attempts) > 1:
        parts.append(_attempts(run, utc=utc, now=now))
    if said := advice(run, now):
        parts.append(Text("\n").join(plain(f"→ {_command_below(sentence)}") for sentence in said))
    return Group(*_spaced(parts))


def _spaced(parts: list[RenderableType]) -> Iterator[RenderableType]:
    for place, part in enumerate(parts):
        if place:
            yield ""
        yield part


def _command_below(sentence: str) -> str:
    """Give a command a line of its own, where there is room for it."""
    return sentence.replace(": optiinfra-db ", ":\n    optiinfra-db ")


def _header(run: Workflow, *, utc: bool, now: datetime) -> RenderableType:
    def when(time: datetime | None) -> str:
        return _words.exact(time) if utc else _words.ago(time, now)

    took = run.duration_seconds
    if took is None and run.started_at:
        took = (now - run.started_at).total_seconds()
    title = Text.assemble(
        (run.workflow_type, "bold"),
        "  ",
        status_text(run.status),
        f"  {run.steps_done}/{len(run.steps)} steps",
        f"  attempt {run.attempt}" if run.attempt > 1 else "",
    )
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    rows = {
        "run": str(run.id),
        "customer": f"{run.customer}  {run.customer_id}",
        "agent": f"{run.agent}  ({run.agent_type})",
        "created": when(run.created_at),
        "started": when(run.started_at),
        "heartbeat": when(run.heartbeat_at) if run.completed_at is None else "",
        "ended": when(run.completed_at),
        "deadline": when(run.deadline_at) if run.completed_at is None else "",
        "because": str(run.metadata.get("cancel_reason", "")),
        "waited": _words.duration(run.waited_seconds),
        "took": _words.duration(took),
    }
    for name, value in rows.items():
        if value:
            grid.add_row(name, plain(value))
    return Group(title, grid)


def _steps(run: Workflow, width: int, now: datetime) -> RenderableType:
    if not run.steps:
        return Text("It has no steps.", style="dim")
    is_narrow = width < _NARROW
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Step", max_width=28 if is_narrow else 40, no_wrap=True, overflow="ellipsis")
    table.add_column("Status", no_wrap=True)
    table.add_column("Took", justify="right", no_wrap=True)
    table.add_column("Tries", justify="right", no_wrap=True)
    table.add_column("Time line ░ wait █ run", no_wrap=True)
    begin = run.started_at or run.created_at
    whole = max(((run.completed_at or now) - begin).total_seconds(), 1e-6)
    line = max(10, min(width - (62 if is_narrow else 74), 60))
    for step in run.steps:
        tries = len(step.attempts)
        table.add_row(
            plain(f"{step.step_order} {step.step_name}"),
            status_text(step.status),
            _words.duration(step.duration_seconds or _running_for(step, now)),
            f"{tries}/{step.max_retries + 1}" if tries > 1 else "",
            _line(step, begin, whole, line, now),
        )
    return table


def _running_for(step: Step, now: datetime) -> float | None:
    if step.status != "running" or step.started_at is None:
        return None
    return (now - step.started_at).total_seconds()


def _line(step: Step, begin: datetime, whole: float, width: int, now: datetime) -> Text:
    """Draw the waiting and the attempts of a step, as parts of the time of the whole run."""

    def column(time: datetime) -> int:
        return min(max(int((time - begin).total_seconds() / whole * width), 0), width)

    cells: list[tuple[str, str]] = [(" ", "")] * width
    # What ran is drawn last: it may be shorter than a column, and is what is looked for.
    for span in sorted(step.spans, key=lambda span: span.kind == "running"):
        first = min(column(span.started_at), width - 1)
        last = max(column(span.ended_at or now), first + 1)
        cells[first:last] = [_cell(span)] * (last - first)
    return Text.assemble(*cells)


def _cell(span: Span) -> tuple[str, str]:
    if span.kind == "waiting":
        return "░", "dim"
    return "█", _words.STYLES[span.status or "running"]


def _error(run: Workflow) -> RenderableType:
    step = run.failed_step
    error = (step.error_details if step else None) or run.error_details or {}
    kind, message = error.get("type"), error.get("message")
    parts: list[RenderableType] = [
        plain(f"{kind}: {message}" if kind and message else str(message or _json(error)), "red")
    ]
    if step and step.input_data not in (None, {}):
        parts += ["", Text("input of the step", style="dim"), plain(_json(step.input_data))]
    elif run.input_data not in (None, {}):
        parts += ["", Text("input of the run", style="dim"), plain(_json(run.input_data))]
    if traceback := error.get("traceback"):
        parts += ["", Text("traceback", style="dim"), plain(_cut(str(traceback), from_end=True))]
    where = f"step {step.step_order} {step.step_name}" if step else "the run"
    return Panel(
        Group(*parts), title=plain(f"Failed: {where}"), title_align="left", border_style="red"
    )


def _artifacts(run: Workflow, width: int) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Artifact", max_width=30, no_wrap=True, overflow="ellipsis")
    table.add_column("Type", no_wrap=True)
    table.add_column("Size", justify="right", no_wrap=True)
    table.add_column("Path", overflow="fold", min_width=20 if width < _NARROW else 40)
    for artifact in run.artifacts:
        table.add_row(
            plain(artifact.artifact_name),
            plain(artifact.artifact_type),
            _words.size(artifact.artifact_size_bytes),
            plain(artifact.artifact_path),
        )
    return table


def _recommendations(run: Workflow) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column("Recommends", overflow="fold")
    table.add_column("Status", no_wrap=True)
    table.add_column("Saves a month", justify="right", no_wrap=True)
    for proposed in run.recommendations:
        table.add_row(
            plain(proposed.title),
            status_text(proposed.status),
            _words.money(proposed.estimated_savings),
        )
    return table


def _attempts(run: Workflow, *, utc: bool, now: datetime) -> RenderableType:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("Attempt", "Status", "Created", "Run"):
        table.add_column(name, no_wrap=True)
    for attempt in run.attempts:
        created = attempt.created_at
        table.add_row(
            f"{attempt.attempt}{' (this)' if attempt.id == run.id else ''}",
            status_text(attempt.status),
            _words.exact(created) if utc else _words.ago(created, now),
            str(attempt.id),
        )
    return table


def _json(value: Any) -> str:  # noqa: ANN401 -- any JSON
    return _cut(json.dumps(value, indent=2, ensure_ascii=False))


def _cut(text: str, *, from_end: bool = False) -> str:
    if len(text) <= _MAX_PAYLOAD:
        return text
    left = len(text) - _MAX_PAYLOAD
    note = f"… {left:,} more characters: --json has them all"
    return f"{note}\n{text[-_MAX_PAYLOAD:]}" if from_end else f"{text[:_MAX_PAYLOAD]}\n{note}"
