"""What stands in the JSON columns, as pydantic models, and what is checked before it gets there.

The generated functions give and take JSON as Python has it. `parse` makes a model of what one
returned, and `dump` what one takes of a model. The shapes here are those that the platform agrees
on; other keys may stand beside them. The values of settings are in `optiinfra_db.configs`.

The annotated types (Text, JsonValue, Timestamp, ...) refuse what PostgreSQL cannot hold, in plain
words and by field: use them in models of your own.
"""

import json
import math
import re
import traceback
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Self, TypeAlias, TypeVar, get_args
from uuid import UUID

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    TypeAdapter,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from optiinfra_db.errors import InvalidValue
from optiinfra_db.generated.models import ArtifactType, StepStatus, WorkflowStatus, WorkflowType

if TYPE_CHECKING:
    from optiinfra_db.settings import Limits

__all__ = [
    "ArtifactMetadata",
    "ArtifactRecord",
    "CostAnalysisInput",
    "CostAnalysisOutput",
    "ErrorDetails",
    "JsonObject",
    "JsonValue",
    "Lock",
    "Name",
    "PerformanceTuningInput",
    "QualityCheckInput",
    "ResourceUsage",
    "Sha256",
    "SizeBytes",
    "StepRecord",
    "Text",
    "Timestamp",
    "WorkflowRecord",
    "check_json",
    "dump",
    "invalid_value",
    "limits",
    "parse",
    "parse_json",
    "redact",
]

T = TypeVar("T")
Path: TypeAlias = tuple[str | int, ...]

MAX_MESSAGE_CHARACTERS = 2_000
MAX_TRACEBACK_BYTES = 8_192

_MAX_INT = 10**4300
"""What Python reads and writes as decimal digits ends here."""
_MOST_TO_LEAST = 25
"""A number has one byte at least and this many at most; a character has six at most, \\u0001."""
_SHOWN_PROBLEMS = 20
_SHOWN_CHARACTERS = 60
_SHOWN_PARTS = 16


@cache
def limits() -> "Limits":
    """Return what OPTIINFRA_MAX_JSON_BYTES and OPTIINFRA_MAX_JSON_DEPTH say, read once.

    Raises InvalidValue where one of them is no such number. `limits.cache_clear()` has them read
    again.
    """
    from optiinfra_db.settings import Limits  # noqa: PLC0415 -- takes 80 ms

    try:
        return Limits()
    except ValidationError as error:
        raise invalid_value(error, Limits, prefix="OPTIINFRA_", case=str.upper) from None


def check_json(
    value: Any,  # noqa: ANN401
    *,
    field: str,
    max_bytes: int | None = None,
    max_depth: int | None = None,
) -> Any:  # noqa: ANN401
    """Return the value if a jsonb column can hold it and give it back equal.

    That is: dict with text as keys, list, str, int, float, bool and None, and no other type that
    `json.dumps` would turn into one of these; no NaN or infinity, NUL or lone surrogate; at most
    max_bytes of JSON text (UTF-8, no spaces), and max_depth of containers in each other. Those two
    are `limits()` unless given. A float of 1e16 or more comes back as the int that it is written
    as, of which `float` is the same.

    Raises InvalidValue, whose `field` is the path to what is wrong: `input_data.periods[3]`.
    """
    if max_bytes is None:
        max_bytes = limits().max_json_bytes
    if max_depth is None:
        max_depth = limits().max_json_depth
    if problem := _json_problem(value, max_bytes, max_depth):
        path, what = problem
        place = path_text((field, *path))
        raise InvalidValue(f"{place}: {what}", field=place)
    return value


def _json_problem(value: object, max_bytes: int, max_depth: int) -> tuple[Path, str] | None:
    """Return where something is wrong and what, or None.

    It goes through the value in its order with a stack of its own, so that depth costs nothing, and
    stops when there is too much, so that neither does a list that holds one other a thousand times.
    """
    path: list[Any] = []
    above: list[Iterator[tuple[Any, Any]]] = []
    level: Iterator[tuple[Any, Any]] = iter([(None, value)])
    size = 0
    while True:
        for key, item in level:
            what, own_size = _look_at(item)
            size += own_size
            is_container = isinstance(item, dict | list)
            if is_container and len(above) >= max_depth:
                what = _too_deep(max_depth)
            if what:
                return (*path[1:], key) if above else (), what
            if size > max_bytes:
                return (), _too_large(max_bytes)
            if is_container:
                above.append(level)
                path.append(key)
                level = iter(item.items() if isinstance(item, dict) else enumerate(item))
                break
        else:
            if not above:
                break
            level = above.pop()
            path.pop()
    if size * _MOST_TO_LEAST > max_bytes:
        try:
            text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        except RecursionError:
            return (), _too_deep(max_depth)
        if len(text.encode()) > max_bytes:
            return (), _too_large(max_bytes)
    return None


def _look_at(value: object) -> tuple[str, int]:
    """Return what is wrong with a value and how many bytes it takes at least, without its parts."""
    if isinstance(value, str):
        return _text_problem(value), len(value) + 2
    if isinstance(value, dict):
        return _keys_problem(value)
    if isinstance(value, int):
        is_readable = -_MAX_INT < value < _MAX_INT
        what = "" if is_readable else "has more than 4,300 digits: give it as text"
        return what, 1 + value.bit_length() // 64
    if isinstance(value, float) and not math.isfinite(value):
        return f"is {value}, which JSON does not have: give null, or leave it out", 1
    if value is None or isinstance(value, float | list):
        return "", 1 + (len(value) if isinstance(value, list) else 0)
    name = type(value).__name__
    advice = _INSTEAD.get(name, "make it dict, list, str, int, float, bool or None")
    return f"is of the type {name}, which JSON does not have: {advice}", 1


def _keys_problem(value: dict[Any, Any]) -> tuple[str, int]:
    try:
        keys = "".join(value)
    except TypeError:
        key = next(key for key in value if not isinstance(key, str))
        return f"has the key {shown(key)}, which is not text: make it str", 1
    what = _text_problem(keys)
    if what:
        key = next(key for key in value if _text_problem(key))
        what = f"has the key {shown(key)}, which {_text_problem(key)}"
    return what, 1 + 4 * len(value) + len(keys)


def _text_problem(text: str) -> str:
    if "\0" in text:
        return "holds a NUL character, which PostgreSQL cannot store: take it out"
    if text.isascii():
        return ""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"holds half of a surrogate pair at character {error.start}, which is no character: "
            "decode the text properly where it comes from"
        )
    return ""


_INSTEAD = {
    "tuple": "make it a list",
    "set": "make it a list",
    "frozenset": "make it a list",
    "datetime": "give its isoformat()",
    "date": "give its isoformat()",
    "time": "give its isoformat()",
    "timedelta": "give its total_seconds()",
    "Decimal": "make it a float, or str",
    "UUID": "make it str",
    "bytes": "decode it, or keep it as an artifact",
}


def _too_deep(max_depth: int) -> str:
    return (
        f"is nested deeper than {max_depth} levels, or holds itself "
        "(OPTIINFRA_MAX_JSON_DEPTH is the limit)"
    )


def _too_large(max_bytes: int) -> str:
    return (
        f"takes more than {max_bytes:,} bytes as JSON (OPTIINFRA_MAX_JSON_BYTES is the limit): "
        "keep it as an artifact, and its path here"
    )


# --- types


def refused(what: str, path: Path = ()) -> PydanticCustomError:
    """Return what a validator raises about a value, or about what is in it at a path."""
    return PydanticCustomError("refused", "{what}", {"what": what, "path": path})


def _text(value: object) -> object:
    if isinstance(value, str) and (what := _text_problem(value)):
        raise refused(what)
    return value


def _json_value(value: object) -> object:
    at_most = limits()
    if problem := _json_problem(value, at_most.max_json_bytes, at_most.max_json_depth):
        path, what = problem
        raise refused(what, path)
    return value


def _json_object(value: object) -> object:
    if not isinstance(value, dict):
        raise refused(f"must be an object, and is {shown(value)}")
    return _json_value(value)


def _timestamp(value: object) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise refused(
                f"must be a time such as 2026-03-01T12:00:00Z (ISO 8601, years 1 to 9999), "
                f"and is {shown(value)}"
            ) from None
    if not isinstance(value, datetime):
        raise refused(f"must be a time such as 2026-03-01T12:00:00Z, and is {shown(value)}")
    if value.utcoffset() is None:
        raise refused(
            f"must say its offset from UTC, as in {value.isoformat()}Z: without one it could be "
            "any of a day's hours"
        )
    try:
        return value.astimezone(UTC)
    except OverflowError:
        raise refused(
            f"is {value.isoformat()}, which is before year 1 or after year 9999 in UTC"
        ) from None


def _sha256(value: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", value):
        raise refused(f"must be a SHA-256 as 64 hexadecimal digits, and is {shown(value)}")
    return value


Text: TypeAlias = Annotated[str, BeforeValidator(_text)]
"""Text that PostgreSQL can hold: no NUL, no lone surrogate."""

Name: TypeAlias = Annotated[str, Field(min_length=1, max_length=255), BeforeValidator(_text)]
"""Text of 1 to 255 characters."""

JsonValue: TypeAlias = Annotated[Any, AfterValidator(_json_value)]
"""What `check_json` lets through."""

JsonObject: TypeAlias = Annotated[
    dict[str, Any],
    PlainValidator(_json_object),
    WithJsonSchema({"type": "object", "additionalProperties": True}),
]
"""A dict that `check_json` lets through."""

Timestamp: TypeAlias = Annotated[datetime, BeforeValidator(_timestamp)]
"""An aware datetime, or ISO 8601 text with an offset; in UTC from then on."""

SizeBytes: TypeAlias = Annotated[int, Field(strict=True, ge=0, lt=2**63)]
"""A size in bytes, from 0."""

Sha256: TypeAlias = Annotated[
    Text,
    AfterValidator(_sha256),
    WithJsonSchema({"type": "string", "pattern": "^[0-9a-fA-F]{64}$"}),
]
"""A SHA-256 as 64 hexadecimal digits."""

Count: TypeAlias = Annotated[int, Field(strict=True, ge=0, lt=2**31)]
Positive: TypeAlias = Annotated[int, Field(strict=True, ge=1, lt=2**31)]
Amount: TypeAlias = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Share: TypeAlias = Annotated[float, Field(strict=True, ge=0, le=1)]


# --- models and values


def parse(model: type[T], value: object) -> T:
    """Make a model of what a generated function returned, or of what came from outside.

    The model may also be a type such as `dict[str, Lock]`.

    Raises InvalidValue, which names each field that is wrong; `field` is the first.
    """
    adapter: TypeAdapter[T] = _adapter_of(model)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        raise invalid_value(error, model) from None


def parse_json(model: type[T], text: str | bytes) -> T:
    """Make a model of a JSON text: a file, the body of a request.

    Raises InvalidValue as `parse` does, and for what is not JSON, or has a key twice in an object.
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError:
        raise InvalidValue("The JSON text is nested too deeply.") from None
    except UnicodeDecodeError as error:
        raise InvalidValue(f"The JSON text is not UTF-8: byte {error.start} is wrong.") from None
    except ValueError as error:
        raise InvalidValue(f"The text is not JSON: {error}.") from None
    return parse(model, value)


def dump(model: BaseModel) -> dict[str, Any]:
    """Return what a generated function takes for a model: what was set, as JSON has it."""
    return model.model_dump(mode="json", exclude_unset=True)


_adapter_of: Callable[[Any], TypeAdapter[Any]] = cache(TypeAdapter)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"the key {twice!r} stands twice in an object")
    return value


class Payload(BaseModel):
    """What stands in a JSON column. Keys that the model does not have stay as they are."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @model_validator(mode="after")
    def _check_other_keys(self) -> Self:
        _json_value(self.model_extra or {})
        return self


class ErrorDetails(Payload):
    """Why a run or a step failed: the `error_details` of both."""

    type: Text
    """The kind of error, such as the name of an exception's class."""
    message: Text = ""
    step: Text | None = None
    """The name of the step in which it came up."""
    retryable: bool | None = None
    """Whether the same again may go well."""
    traceback: Text | None = None

    @classmethod
    def of(
        cls, error: BaseException, *, step: str | None = None, retryable: bool | None = None
    ) -> Self:
        """Describe an exception; raises nothing, whatever the exception does when it is printed.

        The message has 2,000 characters at most, and of the traceback, with the errors that it
        was raised from, the last 8,192 bytes stay. Both are redacted (see `redact`).
        """
        given: dict[str, Any] = {
            "type": _printed(lambda: type(error).__name__, "Exception")[:255],
            "message": _first_characters(_printed(lambda: str(error), "(cannot be printed)")),
        }
        if step is not None:
            given["step"] = _storable(step)
        if retryable is not None:
            given["retryable"] = retryable
        lines = _printed(lambda: "".join(traceback.format_exception(error, limit=-50)), "")
        if lines:
            given["traceback"] = _last_bytes(lines)
        return cls(**given)


class ResourceUsage(Payload):
    """What an agent uses: `agent_states.resource_usage`."""

    cpu_percent: Amount | None = None
    """Of one core; more than 100 with several."""
    memory_mb: Amount | None = None


class Lock(Payload):
    """A lock of an agent; `agent_states.locks` is a `dict[str, Lock]`, by resource.

    The database's own functions write it: acquire_agent_lock and its like.
    """

    token: UUID
    acquired_at: Timestamp
    expires_at: Timestamp


class ArtifactMetadata(Payload):
    """What is told of an artifact beside its row: `workflow_artifacts.metadata`."""

    format: Text | None = None
    pages: Count | None = None
    width: Count | None = None
    """In pixels."""
    height: Count | None = None
    """In pixels."""
    count: Count | None = None
    """How many things are in it, such as recommendations."""


class CostAnalysisInput(Payload):
    """The `input_data` of a cost analysis."""

    period: Text
    """What is looked at: last_30_days, ..."""
    providers: list[Text]
    """The clouds: aws, gcp, ..."""


class CostAnalysisOutput(Payload):
    """The `output_data` of a cost analysis. Savings are per month, in US dollars."""

    total_monthly_cost_usd: Amount
    potential_savings_usd: Amount
    savings_percent: Amount | None = None
    confidence: Share | None = None
    """From 0 to 1."""


class PerformanceTuningInput(Payload):
    """The `input_data` of a performance tuning."""

    model: Text
    """The model whose serving is tuned."""
    target_latency_p95_ms: Annotated[float, Field(strict=True, gt=0, allow_inf_nan=False)]


class QualityCheckInput(Payload):
    """The `input_data` of a quality check."""

    model: Text
    """The model whose answers are looked at."""
    samples: Positive
    """How many answers."""
    threshold: Share
    """The quality below which the check fails, from 0 to 1."""


# --- runs as they happened elsewhere


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class StepRecord(_Record):
    """A step of a run as it happened elsewhere."""

    step_name: Name
    step_order: Positive
    """Place in the plan, from 1; unique in the run."""
    status: StepStatus
    retry_count: Count = 0
    max_retries: Count = 3
    next_attempt_at: Timestamp | None = None
    """From when a retrying step may be started again; None in every other state."""
    started_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    input_data: JsonValue = None
    output_data: JsonValue = None
    error_details: JsonObject | None = None
    metadata: JsonObject | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        status = self.status
        is_over = status in _OVER_STEP
        _refuse(
            self,
            [
                *_times(self, is_over=is_over, may_lack_start=status == StepStatus.SKIPPED),
                *_fits(
                    "next_attempt_at",
                    self.next_attempt_at,
                    status,
                    is_needed=status == StepStatus.RETRYING,
                ),
                *_fits(
                    "error_details",
                    self.error_details,
                    status,
                    is_needed=status in {StepStatus.FAILED, StepStatus.RETRYING},
                    is_allowed=True,
                ),
                *(
                    [(("retry_count",), f"is {self.retry_count}, more than max_retries allows")]
                    if self.retry_count > self.max_retries
                    else []
                ),
            ],
        )
        return self


class ArtifactRecord(_Record):
    """An artifact of a run as it happened elsewhere; its content lies at artifact_path."""

    artifact_type: ArtifactType
    artifact_name: Name
    artifact_path: Annotated[str, Field(min_length=1, max_length=1024), BeforeValidator(_text)]
    """Unique in the run."""
    artifact_size_bytes: SizeBytes
    content_type: Name
    sha256: Sha256
    step_order: Positive | None = None
    """Of the step that left it; None for the run's own."""
    metadata: JsonObject | None = None


class WorkflowRecord(_Record):
    """A run as it happened elsewhere, with its steps and artifacts.

    It has what `record_workflow_execution` takes but for customer and agent, and what that would
    refuse is refused here, by field:

    ```python
    record = parse(WorkflowRecord, {"workflow_type": "health_check", "status": "completed", ...})
    workflow_executions.record_workflow_execution(
        conn, customer_id=customer_id, agent_id=agent_id, **record.parameters()
    )
    ```
    """

    id: UUID | None = None
    """With one, the run can be recorded again without harm."""
    workflow_type: WorkflowType
    status: WorkflowStatus
    attempt: Positive = 1
    retried_from_id: UUID | None = None
    """The run that this one retries, which must be there."""
    created_at: Timestamp | None = None
    started_at: Timestamp | None = None
    completed_at: Timestamp | None = None
    deadline_at: Timestamp | None = None
    input_data: JsonValue = None
    output_data: JsonValue = None
    error_details: JsonObject | None = None
    """Why it failed or timed out; None in every other state."""
    metadata: JsonObject | None = None
    steps: list[StepRecord] = []
    artifacts: list[ArtifactRecord] = []

    @model_validator(mode="after")
    def _check(self) -> Self:
        status = self.status
        _refuse(
            self,
            [
                *_times(
                    self,
                    is_over=status in _OVER_RUN,
                    may_lack_start=status in {WorkflowStatus.CANCELLED, WorkflowStatus.TIMEOUT},
                ),
                *_fits(
                    "error_details",
                    self.error_details,
                    status,
                    is_needed=status in {WorkflowStatus.FAILED, WorkflowStatus.TIMEOUT},
                ),
                *(
                    [(("retried_from_id",), "is the run itself")]
                    if self.id is not None and self.id == self.retried_from_id
                    else []
                ),
                *self._part_problems(),
            ],
        )
        return self

    def _part_problems(self) -> Iterator[tuple[Path, str]]:
        orders: dict[int, int] = {}
        for place, step in enumerate(self.steps):
            if (first := orders.setdefault(step.step_order, place)) != place:
                yield ("steps", place, "step_order"), f"is {step.step_order} as in steps[{first}]"
            if self.status in _OVER_RUN and step.status not in _OVER_STEP:
                yield (
                    ("steps", place, "status"),
                    f"is {step.status}, but a run that is {self.status} has no open steps: "
                    "it must be completed, failed or skipped",
                )
        paths: dict[str, int] = {}
        for place, artifact in enumerate(self.artifacts):
            if (first := paths.setdefault(artifact.artifact_path, place)) != place:
                yield (
                    ("artifacts", place, "artifact_path"),
                    f"is the same as in artifacts[{first}]: a path is unique in its run",
                )
            if artifact.step_order is not None and artifact.step_order not in orders:
                yield (
                    ("artifacts", place, "step_order"),
                    f"is {artifact.step_order}, and no step of this run has that",
                )

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments of `record_workflow_execution`, but customer and agent."""
        whole = {"steps", "artifacts"}
        names = [name for name in type(self).model_fields if name not in whole]
        return {name: getattr(self, name) for name in names} | {
            "steps": [dump(step) for step in self.steps],
            "artifacts": [dump(artifact) for artifact in self.artifacts],
        }


_OVER_STEP = {StepStatus.COMPLETED, StepStatus.FAILED, StepStatus.SKIPPED}
_OVER_RUN = {
    WorkflowStatus.COMPLETED,
    WorkflowStatus.FAILED,
    WorkflowStatus.CANCELLED,
    WorkflowStatus.TIMEOUT,
}


def _times(
    record: StepRecord | WorkflowRecord, *, is_over: bool, may_lack_start: bool
) -> Iterator[tuple[Path, str]]:
    """Say where status and times do not fit together."""
    status, started_at, completed_at = record.status, record.started_at, record.completed_at
    is_pending = status == "pending"
    yield from _fits(
        "started_at",
        started_at,
        status,
        is_needed=not (is_pending or may_lack_start),
        is_allowed=not is_pending,
    )
    yield from _fits("completed_at", completed_at, status, is_needed=is_over)
    if started_at and completed_at and completed_at < started_at:
        yield ("completed_at",), f"is before started_at, {started_at.isoformat()}"


def _fits(
    name: str, value: object, status: str, *, is_needed: bool, is_allowed: bool | None = None
) -> Iterator[tuple[Path, str]]:
    """Say where what depends on the status is missing, or there without need."""
    if value is None and is_needed:
        yield (name,), f"is required where the status is {status}"
    if value is not None and not (is_needed if is_allowed is None else is_allowed):
        yield (name,), f"must be left out where the status is {status}"


def _refuse(model: BaseModel, problems: list[tuple[Path, str]]) -> None:
    if problems:
        raise ValidationError.from_exception_data(
            type(model).__name__,
            [InitErrorDetails(type=refused(what), loc=path, input=None) for path, what in problems],
        )


# --- errors in plain words


def invalid_value(
    error: ValidationError,
    model: object,
    *,
    prefix: str = "",
    case: Callable[[str], str] = str,
) -> InvalidValue:
    """Make the package's error of pydantic's: a line for each field, `field` being the first."""
    found = [(prefix + case(path_text(path)), what) for path, what in problems_of(error, model)]
    lines = [f"{place}: {what}" if place else what for place, what in found]
    rest = len(lines) - _SHOWN_PROBLEMS
    if rest > 0:
        lines[_SHOWN_PROBLEMS:] = [f"... and {rest} more"]
    return InvalidValue("\n".join(lines), field=found[0][0] or None)


def problems_of(error: ValidationError, model: object) -> list[tuple[Path, str]]:
    """Return each problem that pydantic found: the path to it, and what is wrong in plain words."""
    found = []
    for told in error.errors(include_url=False):
        ctx = told.get("ctx", {})
        path = (*told["loc"], *ctx.get("path", ()))
        kind, value = told["type"], told["input"]
        if kind == "extra_forbidden":
            what = _unknown_key(str(told["loc"][-1]), _known_keys(model, told["loc"]))
        elif kind == "value_error":
            what = str(ctx["error"])
        elif kind in _PLAIN:
            what = _PLAIN[kind].format(**ctx)
            if kind == "string_too_long":
                what = f"{what}, and has {len(value)}"
            elif kind != "missing":
                what = f"{what}, and is {shown(value)}"
        else:
            what = told["msg"]
        found.append((path, what))
    return found


_PLAIN = {
    "bool_parsing": "must be true or false",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "enum": "must be {expected}",
    "finite_number": "must be a finite number",
    "float_parsing": "must be a number",
    "float_type": "must be a number",
    "greater_than": "must be more than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "int_from_float": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number, and not as large",
    "int_type": "must be a whole number",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "list_type": "must be a list",
    "missing": "is required, and is missing",
    "model_attributes_type": "must be an object",
    "model_type": "must be an object",
    "string_too_long": "must have at most {max_length} characters",
    "string_too_short": "must have at least {min_length} character",
    "string_type": "must be text",
    "too_short": "must have at least {min_length} item",
    "uuid_parsing": "must be a UUID, such as 01941f29-7c00-7000-8000-000000000021",
    "uuid_type": "must be a UUID, such as 01941f29-7c00-7000-8000-000000000021",
}
"""The errors of pydantic that speak of Python, or do not say what was given."""


def _unknown_key(key: str, known: list[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415 -- only an error needs it

    if near := get_close_matches(key, known, n=1, cutoff=0.6):
        return f"is not known; did you mean {near[0]}?"
    return f"is not known; there are {', '.join(known)}"


def _known_keys(model: object, path: tuple[str | int, ...]) -> list[str]:
    """Return the fields that could stand where the path leads."""
    for part in path[:-1]:
        if isinstance(part, str) and isinstance(model, type) and issubclass(model, BaseModel):
            annotation = model.model_fields[part].annotation
            model = next(iter(get_args(annotation)), annotation)
    return list(getattr(model, "model_fields", ()))


def path_text(path: Path) -> str:
    """Write a path as Python would, if not all of a long one: input_data.periods[3]."""
    text = ""
    for part in path[:_SHOWN_PARTS]:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() or not text:
            text += f".{part}" if text else part
        else:
            text += f"[{shown(part)}]"
    return text + "..." if len(path) > _SHOWN_PARTS else text


def shown(value: object) -> str:
    """Show a value that is refused: short, and without secrets."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float | str | datetime):
        text = redact(_printed(lambda: repr(value), "a number of many digits"))
        return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 3] + "..."
    if isinstance(value, Mapping):
        return "an object"
    if isinstance(value, list):
        return "a list" if value else "an empty list"
    return f"a {type(value).__name__}"


# --- secrets

_REDACTED = "[redacted]"
_SECRET = (
    r"(?:(?:pass(?:word|wd|phrase|code)|pwd|secret(?:[_-]?access)?(?:[_-]?key)?|credential"  # noqa: S105 -- what names a secret
    r"|(?:api|access|private|signing|encryption)[_-]?key)s?|token)"
)
_QUOTED = (
    r"[bBrRuUfF]{0,2}(?:\"{3}[\s\S]{0,4096}?(?:\"{3}|\Z)|'{3}[\s\S]{0,4096}?(?:'{3}|\Z)"
    r"|(?P<quote>\\{0,8}[\"'`])"
    r"(?:\\{3}[\"']|(?!(?P=quote))(?:\\.|[^\\\n])){0,4096}(?P=quote)?)"
)
_SEPARATOR = r"\\{0,8}[\"'`]?\]?[ \t]{0,8}(?:=>|:=|==?|:)[ \t]{0,8}"
_REDACTIONS: list[tuple[re.Pattern[str], str]] = [
    (
        re.compile(r"-----BEGIN [A-Z0-9 ]{1,64}-----.*?(?:-----END [A-Z0-9 ]{1,64}-----|\Z)", re.S),
        _REDACTED,
    ),
    # What PostgreSQL says of a broken CHECK, all of the row; and of a key that is a hash.
    (re.compile(r"(Failing row contains \().*?(\)\.$|\Z)", re.M | re.S), rf"\1{_REDACTED}\2"),
    (re.compile(r"(\)=\()\\x[0-9a-f]+"), rf"\1{_REDACTED}"),
    (re.compile(r"(://[^\s/:@]{0,256}:)\S{1,1024}@"), rf"\1{_REDACTED}@"),
    (
        re.compile(
            rf"((?:authorization|cookie){_SEPARATOR}\\{{0,8}}[\"']?)[^\"'\\\n]{{1,8192}}", re.I
        ),
        rf"\1{_REDACTED}",
    ),
    (re.compile(r"\b(bearer|basic)[ \t]+[\w.~+/=-]{16,}", re.I), rf"\1 {_REDACTED}"),
    (
        re.compile(
            # name = "value", ('name', 'value'), PASSWORD 'value'
            rf"({_SECRET}\d{{0,4}}"
            rf"(?:{_SEPARATOR}|\\{{0,8}}[\"'][ \t]{{0,8}},[ \t]{{0,8}}(?=[bru]?\\{{0,8}}[\"'])"
            rf"|(?<=word)[ \t]+(?=['\"])))(?:{_QUOTED}|[^\s\"']\S{{0,4096}})",
            re.I,
        ),
        rf"\1\g<quote>{_REDACTED}\g<quote>",
    ),
    (re.compile(rf"(--[\w-]{{0,40}}?{_SECRET}[ \t]+)\S+", re.I), rf"\1{_REDACTED}"),
    (re.compile(r"\beyJ[\w-]{4,1024}\.[\w-]{2,8192}(?:\.[\w-]{0,4096}){0,3}"), _REDACTED),
    (
        re.compile(
            r"\b(?:sk|pk|rk|oi|hf|gh[opsur]|github_pat|glpat|xox[a-z])[_-]"
            r"(?=[A-Za-z_-]{0,64}\d)[\w-]{8,1024}"
        ),
        _REDACTED,
    ),
    (re.compile(r"\b(?:AKIA|ASIA)[A-Z0-9]{12,}|\bAIza[\w-]{30,}"), _REDACTED),
]


def redact(text: str) -> str:
    """Return the text with `[redacted]` in place of what looks like a secret.

    That is: passwords in URLs; what is assigned to a password, secret, token or key of an API, in
    any quoting; Authorization and Cookie headers; keys that begin as those of OptiInfra (oi_),
    OpenAI, GitHub, GitLab, Slack, Hugging Face, Google and AWS do; JWTs; PEM blocks; the row that
    PostgreSQL shows of a broken CHECK. A secret that looks like any other word cannot be told
    apart: do not print it in the first place.
    """
    for pattern, replacement in _REDACTIONS:
        text = pattern.sub(replacement, text)
    return text


def _printed(print_it: Callable[[], str], otherwise: str) -> str:
    """Return what foreign code prints, as plain and storable text."""
    try:
        return _storable("".join((print_it(),)))
    except BaseException:  # as traceback does
        return otherwise


def _storable(text: str) -> str:
    """Put U+FFFD in place of what PostgreSQL cannot store; whole surrogate pairs become one."""
    if text.isascii() and "\0" not in text:
        return text
    decoded = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return decoded.replace("\0", "\ufffd")


_READ_FOR_SECRETS = 65_536
"""Characters of a text that are looked through, of which a small part is kept."""


def _first_characters(text: str) -> str:
    text = redact(text[:_READ_FOR_SECRETS])
    if len(text) <= MAX_MESSAGE_CHARACTERS:
        return text
    return text[: MAX_MESSAGE_CHARACTERS - 3] + "..."


def _last_bytes(text: str) -> str:
    encoded = redact(text[-_READ_FOR_SECRETS:]).encode()
    if len(encoded) <= MAX_TRACEBACK_BYTES:
        return encoded.decode()
    return "..." + encoded[3 - MAX_TRACEBACK_BYTES :].decode(errors="ignore")
