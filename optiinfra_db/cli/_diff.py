"""In what two runs differ."""

from collections import Counter
from collections.abc import Iterator, Set
from typing import Any

from optiinfra_db.shapes import Difference, Step, StepPair, Workflow, WorkflowDiff

_RUN = ("customer", "agent", "workflow_type", "status", "input_data", "output_data")
_STEP = ("retry_count", "input_data", "output_data")
_ERROR = ("type", "message")


def compare(a: Workflow, b: Workflow) -> WorkflowDiff:
    """Return what is different; ids and times are, and are left out."""
    steps_a, steps_b = _by_name(a.steps), _by_name(b.steps)
    both = steps_a.keys() & steps_b.keys()
    values_a, values_b = dict(_values(a, both)), dict(_values(b, both))
    return WorkflowDiff(
        a=a.id,
        b=b.id,
        steps=[
            StepPair(
                step_name=name,
                a_status=steps_a[name].status if name in steps_a else None,
                b_status=steps_b[name].status if name in steps_b else None,
                a_seconds=steps_a[name].duration_seconds if name in steps_a else None,
                b_seconds=steps_b[name].duration_seconds if name in steps_b else None,
            )
            for name in {**steps_a, **steps_b}
        ],
        differences=[
            Difference(path=path, a=values_a.get(path), b=values_b.get(path))
            for path in {**values_a, **values_b}
            if values_a.get(path) != values_b.get(path)
        ],
    )


def _by_name(steps: list[Step]) -> dict[str, Step]:
    """Return steps by name, and where a name comes again, with its number: collect#2."""
    seen: Counter[str] = Counter()
    named = {}
    for step in steps:
        seen[step.step_name] += 1
        number = seen[step.step_name]
        named[step.step_name if number == 1 else f"{step.step_name}#{number}"] = step
    return named


def _values(run: Workflow, both: Set[str]) -> Iterator[tuple[str, Any]]:
    """Yield each value of a run that says something of what it did, by its place.

    Of a step that is not in both, only its status.
    """
    for name in _RUN:
        yield from _leaves(name, getattr(run, name))
    yield from _error("error", run.error_details)
    for name, step in _by_name(run.steps).items():
        yield f"steps.{name}.status", step.status
        if name not in both:
            continue
        for column in _STEP:
            yield from _leaves(f"steps.{name}.{column}", getattr(step, column))
        yield from _error(f"steps.{name}.error", step.error_details)
    for artifact in run.artifacts:
        yield f"artifacts.{artifact.artifact_name}.sha256", artifact.sha256


def _error(path: str, error: dict[str, Any] | None) -> Iterator[tuple[str, Any]]:
    for name in _ERROR:
        if error and name in error:
            yield f"{path}.{name}", error[name]


def _leaves(path: str, value: Any) -> Iterator[tuple[str, Any]]:  # noqa: ANN401 -- any JSON
    if isinstance(value, dict) and value:
        for key, item in value.items():
            yield from _leaves(f"{path}.{key}", item)
    elif isinstance(value, list) and value:
        for place, item in enumerate(value):
            yield from _leaves(f"{path}[{place}]", item)
    else:
        yield path, value
