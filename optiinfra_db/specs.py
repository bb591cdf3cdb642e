"""Workflows that are described in a file: YAML or JSON, checked before anything is created.

```yaml
workflow_type: cost_analysis
deadline: PT15M
steps:
  - collect_metrics
  - name: analyze
    retries: 5
    input_data: {region: us-east-1}
```

YAML is taken without its surprises: what YAML 1.1 reads as something else than it looks like (`on`,
`12:30`, `012`, `1e3`, a date) must be in quotes, and there are no anchors, aliases and tags.

`python -m optiinfra_db.specs` prints the JSON Schema of such a file, which is
`docs/workflow-spec.schema.json`: editors complete and check by it.
"""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Self, TypeAlias

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import InitErrorDetails

from optiinfra_db.errors import InvalidSpec
from optiinfra_db.generated.models import WorkflowType
from optiinfra_db.payloads import (
    Count,
    JsonObject,
    JsonValue,
    Name,
    path_text,
    problems_of,
    refused,
    shown,
)

__all__ = ["MAX_SPEC_BYTES", "StepSpec", "WorkflowSpec"]

MAX_SPEC_BYTES = 256 * 1024
"""What a file may have; large input belongs elsewhere, and its place into the file."""

MAX_DEADLINE = timedelta(days=3650)

_MAX_DEPTH = 50
_DURATION = re.compile(
    r"P(?=[\dT])(?:(?P<weeks>\d{1,4})W)?(?:(?P<days>\d{1,5})D)?"
    r"(?:T(?=\d)(?:(?P<hours>\d{1,6})H)?(?:(?P<minutes>\d{1,8})M)?"
    r"(?:(?P<seconds>\d{1,10}(?:\.\d{1,6})?)S)?)?",
    re.ASCII,
)


def _duration(value: object) -> timedelta:
    """Read a duration: ISO 8601, a number of seconds, or a timedelta."""
    duration = None
    if isinstance(value, timedelta):
        duration = value
    elif isinstance(value, int | float) and not isinstance(value, bool):
        # Not timedelta(seconds=value) at once, which overflows.
        is_possible = -1 <= value <= MAX_DEADLINE.total_seconds() + 1
        duration = timedelta(seconds=value) if is_possible else MAX_DEADLINE * 2
    elif isinstance(value, str) and (found := _DURATION.fullmatch(value)):
        duration = timedelta(**{unit: float(n) for unit, n in found.groupdict().items() if n})
    if duration is None:
        raise refused(
            "must be a duration such as PT15M or P1DT12H (weeks, days, hours, minutes and seconds "
            f"of ISO 8601), or a number of seconds, and is {shown(value)}"
        )
    if not timedelta() < duration <= MAX_DEADLINE:
        raise refused(
            f"must be longer than 0 and at most {MAX_DEADLINE.days} days, and is {shown(value)}"
        )
    return duration


Duration: TypeAlias = Annotated[
    timedelta,
    BeforeValidator(_duration),
    WithJsonSchema(
        {
            "anyOf": [
                {
                    "type": "string",
                    "pattern": r"^P(?=[\dT])(\d+W)?(\d+D)?(T(?=\d)(\d+H)?(\d+M)?"
                    r"(\d+(\.\d+)?S)?)?$",
                },
                {
                    "type": "number",
                    "exclusiveMinimum": 0,
                    "maximum": MAX_DEADLINE.total_seconds(),
                },
            ]
        }
    ),
]


class _Spec(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class StepSpec(_Spec):
    """A step of the plan; one that has only a name may be written as that."""

    name: Name
    """What it does, such as collect_metrics; unique in the workflow."""
    input_data: JsonValue = None
    """What the step works on."""
    retries: Count | None = None
    """How often it may be tried again; 3 unless given."""

    @model_validator(mode="before")
    @classmethod
    def _take_name(cls, value: object) -> object:
        return {"name": value} if isinstance(value, str) else value


def _allow_names(schema: dict[str, Any]) -> None:
    """Tell JSON Schema that a name may stand for a step."""
    name = {"type": "string", "minLength": 1, "maxLength": 255}
    schema["items"] = {"anyOf": [name, schema["items"]]}


class WorkflowSpec(_Spec):
    """A workflow to be run: its type, its steps in order, and what it is to work on."""

    workflow_type: WorkflowType
    """The job that it does."""
    steps: Annotated[list[StepSpec], Field(json_schema_extra=_allow_names)]
    """The plan, in order: names, or objects with a name; empty where steps come as the run goes."""
    input_data: JsonValue = None
    """What the run is asked to do."""
    metadata: JsonObject | None = None
    """Free-form object: trigger, trace id, ..."""
    deadline: Duration | None = None
    """How long it may take from its creation: a duration of ISO 8601 (PT15M), or seconds."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        first_of: dict[str, int] = {}
        repeated = [
            InitErrorDetails(
                type=refused(
                    f"is {shown(step.name)} as in steps[{first}]: "
                    "steps are found by their name, give it another"
                ),
                loc=("steps", place, "name"),
                input=step.name,
            )
            for place, step in enumerate(self.steps)
            if (first := first_of.setdefault(step.name, place)) != place
        ]
        if repeated:
            raise ValidationError.from_exception_data("WorkflowSpec", repeated)
        return self

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a file that ends in .yaml, .yml or .json.

        Raises InvalidSpec, with a line for each problem: file, line, field, and what to do.
        """
        path = Path(path)
        if path.suffix.lower() not in {".yaml", ".yml", ".json"}:
            raise InvalidSpec(f"{path}: a workflow is described in .yaml, .yml or .json.")
        try:
            with path.open("rb") as file:
                content = file.read(MAX_SPEC_BYTES + 1)
        except OSError as error:
            raise InvalidSpec(f"{path}: cannot be read: {error.strerror or error}.") from error
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            # What is cut off within a character is too large, which parse says.
            if len(content) <= MAX_SPEC_BYTES:
                line = content.count(b"\n", 0, error.start) + 1
                raise InvalidSpec(
                    f"{path}:{line}: is not UTF-8: save it in that encoding."
                ) from None
            text = content.decode("utf-8-sig", "replace")
        return cls.parse(text, source=str(path))

    @classmethod
    def parse(cls, text: str, *, source: str = "spec") -> Self:
        """Read a text: JSON where source ends in .json or the text begins with {, else YAML.

        Raises InvalidSpec, with a line for each problem, which begins with source.
        """
        text = text.removeprefix("\ufeff")
        if len(text) > MAX_SPEC_BYTES or len(text.encode(errors="replace")) > MAX_SPEC_BYTES:
            raise InvalidSpec(
                f"{source}: has more than {MAX_SPEC_BYTES // 1024} KiB: keep large input "
                "elsewhere, and write here where."
            )
        suffix = Path(source).suffix.lower()
        is_json = suffix == ".json" or (
            suffix not in {".yaml", ".yml"} and text.lstrip().startswith("{")
        )
        document = _Document()
        try:
            value = (_read_json if is_json else _read_yaml)(text, document)
            model = cls.model_validate(value)
        except _ReadError as error:
            document.refuse(error.line, (), error.what)
        except ValidationError as error:
            for path, what in problems_of(error, cls):
                document.refuse_unless_told(path, what)
        else:
            if not document.problems:
                return model
        raise InvalidSpec("\n".join(f"{source}:{problem}" for problem in document.told()))

    def parameters(self) -> dict[str, Any]:
        """Return the keyword arguments of `create_workflow_execution`, but customer and agent.

        The deadline counts from this call.
        """
        return {
            "workflow_type": self.workflow_type,
            "deadline_at": self.deadline and datetime.now(UTC) + self.deadline,
            "input_data": self.input_data,
            "metadata": self.metadata,
            "step_names": [step.name for step in self.steps],
            "step_input_data": [step.input_data for step in self.steps],
            "step_max_retries": [step.retries for step in self.steps],
        }

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema (2020-12) of a file."""
        return {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "$comment": "Written by: python -m optiinfra_db.specs > docs/workflow-spec.schema.json",
        } | cls.model_json_schema()


_Path: TypeAlias = tuple[str | int, ...]


@dataclass
class _Document:
    """What is known of a text beside its value."""

    lines: dict[_Path, int] = field(default_factory=lambda: {(): 1})
    """The line on which what is at a path begins: its key, or the item itself in a list."""
    problems: list[tuple[int, _Path, str]] = field(default_factory=list)

    def line_of(self, path: _Path) -> int:
        """Return the line of what is at a path, or else of what it would be in."""
        while path not in self.lines:
            path = path[:-1]
        return self.lines[path]

    def refuse(self, line: int, path: _Path, what: str) -> None:
        self.problems.append((line, path, what))

    def refuse_unless_told(self, path: _Path, what: str) -> None:
        """Refuse what is at a path, unless that was refused when it was read."""
        line = self.line_of(path)
        if not any(line == told and path[: len(at)] == at for told, at, _ in self.problems):
            self.refuse(line, path, what)

    def told(self) -> list[str]:
        """Return the problems by line."""
        problems = [
            (line, f"{path_text(path)}: {what}" if path else what)
            for line, path, what in self.problems
        ]
        return [f"{line}: {what}" for line, what in sorted(set(problems))]

    def note_key(self, path: _Path, line: int) -> None:
        """Note where a key of an object stands; refuse it if it stood there before."""
        if path in self.lines:
            what = f"stands twice, first on line {self.lines[path]}: keep one of them"
            self.refuse(line, path, what)
        self.lines[path] = line


class _ReadError(Exception):
    """The text is no YAML or JSON, or not such as is taken."""

    def __init__(self, line: int, what: str) -> None:
        super().__init__(line, what)
        self.line = line
        self.what = what


# --- JSON

_JSON_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+|\n')


def _read_json(text: str, document: _Document) -> object:
    try:
        value = json.loads(text)
    except json.JSONDecodeError as error:
        what = (
            "is empty" if not text.strip() else f"is not JSON: {error.msg} (column {error.colno})"
        )
        raise _ReadError(error.lineno, what) from None
    except RecursionError:
        raise _ReadError(1, "is nested too deeply") from None
    except ValueError:
        raise _ReadError(1, "holds a number of thousands of digits: write it as text") from None
    _note_json_lines(text, document)
    return value


def _note_json_lines(text: str, document: _Document) -> None:
    """Note on which line everything stands, in a text that is JSON."""
    line = 1
    place: list[Any] = []  # a key or an index for each container that is open
    is_object: list[bool] = []
    expects_key = False
    for part in _JSON_TOKEN.findall(text):
        if part == "\n":
            line += 1
        elif part in "}]":
            place.pop()
            is_object.pop()
        elif part == ":":
            expects_key = False
        elif part == ",":
            expects_key = is_object[-1]
            if not expects_key:
                place[-1] += 1
        elif expects_key:
            place[-1] = json.loads(part)
            document.note_key(tuple(place), line)
        else:
            document.lines.setdefault(tuple(place), line)
            if part in "{[":
                expects_key = part == "{"
                is_object.append(expects_key)
                place.append(0)


# --- YAML

_TAG = "tag:yaml.org,2002:"
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,4000})")
_FLOAT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)\.[0-9]+(?:[eE][-+][0-9]+)?")
_LOOKS_LIKE_FLOAT = re.compile(r"[-+]?[0-9]+(?:\.[0-9]*)?[eE][-+]?[0-9]+")
_READ_AS = {
    "bool": "a boolean: write it in quotes if it is text, else true or false",
    "int": "another number than it looks like: write it in quotes if it is text, else in decimal",
    "float": "another number than it looks like: write it in quotes if it is text, else as 1.5",
    "str": "text: write it in quotes if it is text, else as 1000.0",
    "timestamp": "a date: write it in quotes",
}


class _Composer(yaml.SafeLoader):
    """Makes nodes, without what a description of a workflow has no use for."""

    def __init__(self, text: str, document: _Document) -> None:
        super().__init__(text)
        self.document = document
        self.depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        line = mark.line + 1
        if isinstance(event, yaml.AliasEvent):
            self.get_event()  # type: ignore[no-untyped-call]
            self._refuse(line, f"*{event.anchor} is an alias", "write out what it stands for")
            return yaml.ScalarNode(f"{_TAG}null", "", mark, mark)
        if event.anchor is not None:
            self._refuse(line, f"&{event.anchor} is an anchor", "leave it out")
            event.anchor = None
        if event.tag is not None:
            self._refuse(line, f"{event.tag} is a tag", "leave it out, and write text in quotes")
            event.tag = f"{_TAG}str" if isinstance(event, yaml.ScalarEvent) else None
        if self.depth >= _MAX_DEPTH:
            raise _ReadError(line, f"is nested deeper than {_MAX_DEPTH} levels")
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def _refuse(self, line: int, what: str, advice: str) -> None:
        self.document.refuse(line, (), f"{what}, which is not taken here: {advice}")


def _read_yaml(text: str, document: _Document) -> object:
    try:
        loader = _Composer(text, document)
        node = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        raise _yaml_error(error) from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"holds U+{ord(text[error.position]):04X}, which YAML does not allow"
        raise _ReadError(line, what) from None
    if node is None:
        raise _ReadError(1, "is empty")
    return _value_of(node, (), document)


def _yaml_error(error: yaml.MarkedYAMLError) -> _ReadError:
    mark = error.problem_mark or error.context_mark
    line = mark.line + 1 if mark else 1
    if error.context == "expected a single document in the stream":
        return _ReadError(line, "begins another document: put each into a file of its own")
    told = ", ".join(part for part in (error.context, error.problem) if part)
    column = f" (column {mark.column + 1})" if mark else ""
    hint = "; indent by spaces" if "'\\t'" in told else ""
    return _ReadError(line, f"is not YAML: {told}{column}{hint}")


def _value_of(node: yaml.Node, path: _Path, document: _Document) -> object:
    document.lines.setdefault(path, node.start_mark.line + 1)
    if isinstance(node, yaml.SequenceNode):
        return [_value_of(item, (*path, place), document) for place, item in enumerate(node.value)]
    if isinstance(node, yaml.MappingNode):
        return dict(_items_of(node, path, document))
    return _scalar_of(node, path, document)


def _items_of(
    node: yaml.MappingNode, path: _Path, document: _Document
) -> Iterator[tuple[str, object]]:
    for key_node, value_node in node.value:
        line = key_node.start_mark.line + 1
        if key_node.tag == f"{_TAG}str":
            inner = (*path, key_node.value)
            document.note_key(inner, line)
            yield key_node.value, _value_of(value_node, inner, document)
        elif isinstance(key_node, yaml.ScalarNode):
            what = f"YAML does not read the key {key_node.value} as text: write it in quotes"
            document.refuse(line, path, what)
        else:
            document.refuse(line, path, "has a key that is not text")


def _scalar_of(node: yaml.Node, path: _Path, document: _Document) -> object:
    """Return a scalar as what it looks like; refuse it where YAML 1.1 takes it for another."""
    kind, text = node.tag.removeprefix(_TAG), node.value
    is_plain = isinstance(node, yaml.ScalarNode) and not node.style
    if kind == "null":
        return None
    if kind == "bool" and text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if kind == "int" and _INT.fullmatch(text):
        return int(text)
    if kind == "float" and _FLOAT.fullmatch(text):
        return float(text)
    if kind == "str" and not (is_plain and _LOOKS_LIKE_FLOAT.fullmatch(text)):
        return text
    read_as = _READ_AS.get(kind, "an instruction: write it in quotes")
    document.refuse(node.start_mark.line + 1, path, f"YAML reads {text} as {read_as}")
    return None


if __name__ == "__main__":
    print(json.dumps(WorkflowSpec.json_schema(), indent=2))
