import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jsonschema
import pytest

from optiinfra_db.errors import InvalidSpec, InvalidValue, OptiInfraError
from optiinfra_db.generated import agents, customers, workflow_executions, workflow_steps
from optiinfra_db.generated.models import AgentType, WorkflowType
from optiinfra_db.payloads import parse
from optiinfra_db.specs import MAX_SPEC_BYTES, WorkflowSpec

SCHEMA = Path(__file__).parents[1] / "docs" / "workflow-spec.schema.json"

GOOD = """\
# Once a night.
workflow_type: cost_analysis
deadline: PT15M
input_data: {period: last_30_days, providers: [aws, gcp], share: 0.5, dry: false, none: null}
metadata:
  trigger: schedule
steps:
  - collect_metrics
  - name: analyze
    retries: 5
    input_data:
      region: us-east-1
  - name: "on"
    retries: 0
"""

AS_JSON = """{
\t"workflow_type": "cost_analysis",
\t"deadline": "PT15M",
\t"input_data": {"period": "last_30_days", "providers": ["aws", "gcp"], "share": 0.5,
\t\t"dry": false, "none": null},
\t"metadata": {"trigger": "schedule"},
\t"steps": ["collect_metrics", {"name": "analyze", "retries": 5,
\t\t"input_data": {"region": "us-east-1"}}, {"name": "on", "retries": 0}]
}"""


def refused(text, source="spec.yaml"):
    """Return what is refused: line and text of each problem."""
    with pytest.raises(InvalidSpec) as caught:
        WorkflowSpec.parse(text, source=source)
    problems = []
    for line in str(caught.value).split("\n"):
        assert line.startswith(f"{source}:")
        number, what = line.removeprefix(f"{source}:").split(": ", 1)
        problems.append((int(number), what))
    assert problems == sorted(problems)
    return problems


def only(text, source="spec.yaml"):
    (problem,) = refused(text, source)
    return problem


def spec(steps="[a]", more=""):
    return f"workflow_type: health_check\nsteps: {steps}\n{more}\n"


def test_a_workflow_is_read_from_yaml_and_from_json_alike():
    read = WorkflowSpec.parse(GOOD)

    assert read == WorkflowSpec.parse(AS_JSON) == WorkflowSpec.parse(AS_JSON, source="a.json")
    assert read.workflow_type is WorkflowType.COST_ANALYSIS
    assert read.deadline == timedelta(minutes=15)
    assert [(step.name, step.retries) for step in read.steps] == [
        ("collect_metrics", None),
        ("analyze", 5),
        ("on", 0),
    ]
    assert read.input_data == {
        "period": "last_30_days",
        "providers": ["aws", "gcp"],
        "share": 0.5,
        "dry": False,
        "none": None,
    }


@pytest.mark.parametrize("name", ["run.yaml", "run.yml", "run.json", "RUN.YAML"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_workflow_is_loaded_from_a_file(tmp_path, name, encoding):
    path = tmp_path / name
    path.write_text(AS_JSON if name.endswith("json") else GOOD, encoding=encoding)

    assert WorkflowSpec.load(path) == WorkflowSpec.load(str(path)) == WorkflowSpec.parse(GOOD)


def test_its_parameters_create_the_run_that_it_describes(conn):
    customer = customers.create_customer(
        conn, name="Atlas", email="specs@atlas.example", api_key_hash=bytes(32)
    )
    agent = agents.upsert_agent(conn, type=AgentType.COST, name="specs", version="1")
    read = WorkflowSpec.parse(GOOD)
    before = datetime.now(UTC)

    run = workflow_executions.create_workflow_execution(
        conn, customer_id=customer.id, agent_id=agent.id, **read.parameters()
    )

    assert (run.workflow_type, run.input_data) == (read.workflow_type, read.input_data)
    assert run.metadata == {"trigger": "schedule"}
    after = datetime.now(UTC)
    assert before + read.deadline <= run.deadline_at <= after + read.deadline
    steps = workflow_steps.list_workflow_steps(
        conn, customer_id=customer.id, workflow_execution_id=run.id
    )
    assert [(step.step_name, step.max_retries, step.input_data) for step in steps] == [
        ("collect_metrics", 3, {}),
        ("analyze", 5, {"region": "us-east-1"}),
        ("on", 0, {}),
    ]


def test_the_least_and_the_most_that_a_spec_takes_the_database_takes(conn):
    customer = customers.create_customer(
        conn, name="Atlas", email="specs@atlas.example", api_key_hash=bytes(32)
    )
    agent = agents.upsert_agent(conn, type=AgentType.COST, name="specs", version="1")
    for text in (
        spec(),
        spec(f"[{{name: {'ä' * 255}, retries: {2**31 - 1}, input_data: [1]}}]", "deadline: P3650D"),
        spec('["\\U0001F600"]', "deadline: 0.001\ninput_data: text"),
    ):
        run = workflow_executions.create_workflow_execution(
            conn,
            customer_id=customer.id,
            agent_id=agent.id,
            **WorkflowSpec.parse(text).parameters(),
        )
        assert run.status == "pending"


@pytest.mark.parametrize(
    ("text", "duration"),
    [
        ("PT15M", timedelta(minutes=15)),
        ("P1DT12H", timedelta(days=1.5)),
        ("P2W", timedelta(weeks=2)),
        ("PT0.5S", timedelta(seconds=0.5)),
        ("90", timedelta(seconds=90)),
        ("1.5", timedelta(seconds=1.5)),
        ("P3650D", timedelta(days=3650)),
    ],
)
def test_a_deadline_is_a_duration_or_seconds(text, duration):
    assert WorkflowSpec.parse(spec(more=f"deadline: {text}")).deadline == duration


@pytest.mark.parametrize(
    "text",
    ["0", "-5", "PT0S", "15m", "PT", "P", "P1M", "P1Y", "-PT5M", "P3651D", "PT99999999999S",
     "'15'", "true", "[1]", "9" * 400, "1.0e+300", "''"],
)  # fmt: skip
def test_a_deadline_that_is_no_time_from_now_is_refused(text):
    line, what = only(spec(more=f"deadline: {text}"))
    assert line == 3
    assert what.startswith("deadline: must be ")


def test_all_problems_are_told_at_once_each_with_its_line():
    text = """\
workflow_typ: cost_analysis
workflow_type: cost
deadline: 12:30
steps:
  - name: on
  - name: analyze
    retires: 3
    retries: -1
  - name: report
    retries: 1
    retries: 2
  -
  - name: ""
    input_data:
      since: 2026-03-01
      region: no
"""

    assert [(line, what.split(": ")[0]) for line, what in refused(text, "night.yaml")] == [
        (1, "workflow_typ"),
        (2, "workflow_type"),
        (3, "deadline"),
        (5, "steps[0].name"),
        (7, "steps[1].retires"),
        (8, "steps[1].retries"),
        (11, "steps[2].retries"),
        (12, "steps[3]"),
        (13, "steps[4].name"),
        (15, "steps[4].input_data.since"),
        (16, "steps[4].input_data.region"),
    ]


def test_a_problem_of_json_has_its_line_too():
    text = """{
\t"workflow_type": "cost_analysis",
\t"steps": [
\t\t"a", "a",
\t\t{"name": "b",
\t\t "retries": "many",
\t\t "retries": 4.5}, {"nme": "c"}
\t],
\t"input_data": {"periods": [1,
\t\tNaN]}
}"""

    problems = refused(text, "night.json")
    assert [(line, what.split(": ")[0]) for line, what in problems] == [
        (7, "steps[2].retries"),
        (7, "steps[3].name"),
        (7, "steps[3].nme"),
        (10, "input_data.periods[1]"),
    ]


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (spec("[a, b, a]"), 2, r"steps\[2\].name: is 'a' as in steps\[0\]"),
        (spec("a"), 2, "steps: must be a list, and is 'a'"),
        (spec("[{retries: 1}]"), 2, r"steps\[0\].name: is required"),
        (spec("[{name: 5}]"), 2, r"steps\[0\].name: must be text, and is 5"),
        (spec("[true]"), 2, r"steps\[0\]: must be an object, and is true"),
        (spec("[{name: a, retries: 2147483648}]"), 2, "must be less than 2147483648"),
        (spec("[{name: a, retries: 1.5}]"), 2, "whole number"),
        (spec(f"[{'x' * 256}]"), 2, "at most 255 characters, and has 256"),
        (spec('["a\\0"]'), 2, "NUL"),
        (spec(more="metadata: [1]"), 3, "metadata: must be an object"),
        (spec(more="dead_line: 5"), 3, "dead_line: is not known; did you mean deadline?"),
        (spec(more="colour: red"), 3, "colour: is not known; there are workflow_type, steps"),
        ("steps: [a]", 1, "workflow_type: is required, and is missing"),
        ("- a", 1, "must be an object, and is a list"),
        ("\n\nhello", 3, "must be an object, and is 'hello'"),
    ],
)
def test_what_is_wrong_is_told_in_plain_words(text, line, words):
    found, what = only(text)

    assert re.search(words, what)
    assert found == line or text.startswith("\n")
    assert "Input should" not in what


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("on", "reads on as a boolean.*quotes"),
        ("NO", "reads NO as a boolean.*quotes"),
        ("012", "reads 012 as another number"),
        ("0x1F", "another number"),
        ("1_000", "another number"),
        ("12:30", "another number"),
        ("1e3", "reads 1e3 as text.*1000.0"),
        (".inf", "another number"),
        (".nan", "another number"),
        ("2026-03-01", "reads 2026-03-01 as a date.*quotes"),
        ("2026-03-01T12:00:00Z", "a date.*quotes"),
        ("=", "an instruction.*quotes"),
    ],
)
def test_what_yaml_reads_as_something_else_must_be_in_quotes(value, words):
    line, what = only(spec(more=f"input_data:\n  x: {value}"))
    assert line == 4
    assert re.search(f"input_data.x: YAML .*{words}", what)

    for quoted in (f"'{value}'", f'"{value}"'):
        read = WorkflowSpec.parse(spec(more=f"input_data:\n  x: {quoted}"))
        assert read.input_data == {"x": value}


@pytest.mark.parametrize("key", ["on", "5", "~", "2026-03-01", "1.5"])
def test_a_key_that_is_no_text_in_yaml_must_be_in_quotes(key):
    line, what = only(spec(more=f"input_data:\n  {key}: 1"))
    assert (line, what) == (
        4,
        f"input_data: YAML does not read the key {key} as text: write it in quotes",
    )
    read = WorkflowSpec.parse(spec(more=f"input_data:\n  '{key}': 1"))
    assert read.input_data == {key: 1}


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "is empty"),
        ("# nothing\n", 1, "is empty"),
        (spec() + "---\na: 1\n", 4, "another document"),
        (spec(more="input_data: &x {a: 1}"), 3, "&x is an anchor, which is not taken"),
        (spec(more="input_data: *x"), 3, r"\*x is an alias, which is not taken"),
        (spec(more="input_data: !!python/name:os.system x"), 3, "is a tag, which is not taken"),
        (spec(more="input_data: !!str 5"), 3, "is a tag"),
        (spec(more="input_data: !mine [1]"), 3, "!mine is a tag"),
        (spec(more="input_data:\n  <<: {a: 1}"), 4, "key << .*quotes"),
        (spec(more="input_data: {a: 1, a: 2}"), 3, r"input_data.a: stands twice"),
        (spec(more="steps: [b]"), 3, "steps: stands twice, first on line 2"),
        (spec(more="? [a]\n: 1"), 3, "has a key that is not text"),
        (spec(more="a:\n\t- b"), 4, "indent by spaces"),
        (spec(more="input_data: [1"), 4, "is not YAML"),
        (spec(more="input_data: 'x"), 4, "is not YAML"),
        (spec(more="a: b: c"), 3, r"is not YAML: .* \(column 5\)"),
        (spec(more="a: \x07"), 3, r"U\+0007, which YAML does not allow"),
        (spec(more="input_data: " + "[" * 1000), 3, "nested deeper than 50 levels"),
        (spec(more="input_data: " + "9" * 5000), 3, "another number|digits"),
    ],
)
def test_yaml_that_is_none_or_too_much_of_it_is_refused(text, line, words):
    found, what = only(text)
    assert found == line
    assert re.search(words, what)


def test_a_problem_does_not_hide_the_others_on_its_line():
    text = '{"workflow_type": "cost", "steps": [{"name": "a", "retries": 1, "retries": -1}]}'
    assert [(line, what.split(": ")[0]) for line, what in refused(text, "a.json")] == [
        (1, "steps[0].retries"),
        (1, "workflow_type"),
    ]


def test_a_workflow_may_have_no_steps_yet():
    assert WorkflowSpec.parse(spec("[]")).parameters()["step_names"] == []


def test_a_bomb_of_aliases_is_refused_before_it_goes_off():
    lines = ["a: &a [x, x, x, x, x, x, x, x, x]"]
    for before, name in zip("abcdefgh", "bcdefghi", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]")

    assert len(refused("\n".join(lines))) >= 9


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("", 1, "is empty"),
        ("{", 1, "is not JSON"),
        ('{\n"steps": ["a" "b"]}', 2, r"is not JSON: .* \(column 15\)"),
        ("[" * 100_000, 1, "nested too deeply"),
        ('{"a": ' + "9" * 5000 + "}", 1, "thousands of digits"),
        ("[1]", 1, "must be an object"),
        ("workflow_type: health_check", 1, "is not JSON"),
    ],
)
def test_json_that_is_none_is_refused(text, line, words):
    found, what = only(text, "spec.json")
    assert found == line
    assert re.search(words, what)


def test_what_is_special_in_json_is_read():
    text = '{"workflow_type": "health_check",\t"steps": ["\\ud83d\\ude00", "a\\/b", "{\\"[,:"]}'

    assert [step.name for step in WorkflowSpec.parse(text).steps] == ["\U0001f600", "a/b", '{"[,:']
    line, what = only(text.replace("a\\/b", "\\ud800"), "spec.json")
    assert (line, "surrogate" in what) == (1, True)


def test_a_file_that_cannot_be_taken_is_refused_by_name(tmp_path):
    for name, content, words in [
        ("spec.toml", b"", "described in .yaml, .yml or .json"),
        ("missing.yaml", None, "cannot be read: No such file"),
        ("latin.yaml", "a: 1\nb: ä".encode("latin-1"), "latin.yaml:2: is not UTF-8"),
        ("utf16.yaml", GOOD.encode("utf-16"), "utf16.yaml:1: is not UTF-8"),
        ("large.yaml", b"a" * (MAX_SPEC_BYTES + 1), "large.yaml: has more than 256 KiB"),
        ("cut.json", "ä".encode() * MAX_SPEC_BYTES, "cut.json: has more than 256 KiB"),
    ]:
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(InvalidSpec, match=re.escape(words)) as caught:
            WorkflowSpec.load(path)
        assert str(path) in str(caught.value)
    (tmp_path / "folder.yaml").mkdir()
    with pytest.raises(InvalidSpec, match="cannot be read"):
        WorkflowSpec.load(tmp_path / "folder.yaml")
    (tmp_path / "endless.yaml").symlink_to("/dev/zero")
    with pytest.raises(InvalidSpec, match="more than 256 KiB"):
        WorkflowSpec.load(tmp_path / "endless.yaml")


def test_a_bad_spec_is_wrong_usage():
    assert issubclass(InvalidSpec, OptiInfraError)
    assert issubclass(InvalidSpec, ValueError)
    assert InvalidSpec.exit_code == 2


def test_a_spec_is_made_in_python_too():
    made = WorkflowSpec(workflow_type="health_check", steps=["a"], deadline=timedelta(minutes=1))
    assert made == WorkflowSpec.parse(spec(more="deadline: 60"))
    with pytest.raises(InvalidValue, match="did you mean steps") as caught:
        parse(WorkflowSpec, {"workflow_type": "health_check", "steps": ["a"], "step": 1})
    assert caught.value.field == "step"


def test_a_spec_without_a_deadline_has_none_in_its_parameters():
    assert WorkflowSpec.parse(spec()).parameters() == {
        "workflow_type": WorkflowType.HEALTH_CHECK,
        "deadline_at": None,
        "input_data": None,
        "metadata": None,
        "step_names": ["a"],
        "step_input_data": [None],
        "step_max_retries": [None],
    }


def test_the_schema_in_the_documentation_is_current():
    printed = subprocess.run(
        [sys.executable, "-m", "optiinfra_db.specs"], check=True, capture_output=True, text=True
    ).stdout

    command = "python -m optiinfra_db.specs > docs/workflow-spec.schema.json"
    assert SCHEMA.read_text() == printed, f"Run {command}"
    assert json.loads(printed) == WorkflowSpec.json_schema()
    assert command in WorkflowSpec.json_schema()["$comment"]


def test_the_schema_takes_what_the_model_takes_and_refuses_what_it_refuses():
    schema = WorkflowSpec.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    good = json.loads(AS_JSON)
    for change in (
        {},
        {"deadline": 90},
        {"deadline": None},
        {"deadline": "P1DT12H"},
        {"steps": []},
        {"steps": ["a"]},
        {"steps": [{"name": "a", "retries": None}]},
        {"input_data": None},
    ):
        value = good | change
        assert validator.is_valid(value), value
        parse(WorkflowSpec, value)
    for change in (
        {"workflow_type": "cost"},
        {"steps": "a"},
        {"steps": [""]},
        {"steps": [{"retries": 1}]},
        {"steps": [{"name": "a", "retires": 1}]},
        {"steps": [{"name": "a", "retries": -1}]},
        {"steps": [{"name": "a" * 256}]},
        {"steps": [5]},
        {"deadline": 0},
        {"deadline": "15m"},
        {"deadline": "P1M"},
        {"deadline": 10**9},
        {"metadata": []},
        {"colour": "red"},
    ):
        value = good | change
        assert not validator.is_valid(value), value
        with pytest.raises(InvalidValue):
            parse(WorkflowSpec, value)
