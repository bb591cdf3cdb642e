import itertools
import json
import math
import re
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from enum import StrEnum
from uuid import UUID, uuid4

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb
from pydantic import BaseModel, ConfigDict, ValidationError

from optiinfra_db import payloads
from optiinfra_db.errors import DatabaseError, InvalidValue
from optiinfra_db.generated import (
    agent_states,
    agents,
    customers,
    workflow_artifacts,
    workflow_executions,
    workflow_steps,
)
from optiinfra_db.generated.models import (
    AgentStatusDetail,
    AgentType,
    ArtifactType,
    StepStatus,
    WorkflowStatus,
    WorkflowType,
)
from optiinfra_db.payloads import (
    ArtifactMetadata,
    CostAnalysisInput,
    CostAnalysisOutput,
    ErrorDetails,
    JsonObject,
    JsonValue,
    Lock,
    Name,
    PerformanceTuningInput,
    QualityCheckInput,
    ResourceUsage,
    Sha256,
    SizeBytes,
    Text,
    Timestamp,
    WorkflowRecord,
    check_json,
    dump,
    invalid_value,
    parse,
    parse_json,
    redact,
)
from optiinfra_db.seed import ATLAS, COST_RUN, INDIE, NIMBUS, QUALITY_RUN, TUNING_RUN, seed

AT = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
LATER = AT + timedelta(minutes=5)
ERROR = {"type": "QuotaExceeded", "message": "no GPUs left"}
DIGEST = "0f" * 32
PAST_ROLLED_BACK = settings(
    deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture
def owner(conn):
    """Say for whom and by whom runs are recorded."""
    customer = customers.create_customer(
        conn, name="Atlas", email="payloads@atlas.example", api_key_hash=bytes(32)
    )
    agent = agents.upsert_agent(conn, type=AgentType.COST, name="payloads", version="1")
    return {"customer_id": customer.id, "agent_id": agent.id}


def run(**given):
    values = {
        "workflow_type": "health_check",
        "status": "completed",
        "started_at": AT.isoformat(),
        "completed_at": LATER.isoformat(),
    }
    return {name: value for name, value in (values | given).items() if value is not None}


def step(order=1, **given):
    values = {
        "step_name": f"step {order}",
        "step_order": order,
        "status": "completed",
        "started_at": AT.isoformat(),
        "completed_at": LATER.isoformat(),
    }
    return {name: value for name, value in (values | given).items() if value is not None}


def artifact(path="s3://a/b", **given):
    values = {
        "artifact_type": "report",
        "artifact_name": "Report",
        "artifact_path": path,
        "artifact_size_bytes": 5,
        "content_type": "text/plain",
        "sha256": DIGEST,
    }
    return values | given


def problems(call, *args, **kwargs):
    """Return what is refused, by field."""
    with pytest.raises(InvalidValue) as caught:
        call(*args, **kwargs)
    lines = str(caught.value).splitlines()
    found = dict(line.split(": ", 1) for line in lines)
    assert caught.value.field == next(iter(found))
    return found


# --- JSON


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        ({"periods": [1, 2, 3, math.nan]}, "input_data.periods[3]", "nan"),
        ([{}, {"a": -math.inf}], "input_data[1].a", "-inf"),
        (math.inf, "input_data", "inf"),
        ({"a": {"b": "x\0"}}, "input_data.a.b", "NUL"),
        (["ok", "x\ud800"], "input_data[1]", "surrogate"),
        ({"a": {"\0": 1}}, "input_data.a", "key"),
        ({"a": {"\udfff": 1}}, "input_data.a", "key"),
        ({"a": {1: 1}}, "input_data.a", "the key 1, which is not text"),
        ({None: 1}, "input_data", "key"),
        ({"two words": [(1, 2)]}, "input_data['two words'][0]", "tuple.*make it a list"),
        ({"cost": Decimal("1.5")}, "input_data.cost", "Decimal.*float"),
        ({"at": AT}, "input_data.at", "isoformat"),
        ({"id": uuid4()}, "input_data.id", "UUID"),
        ({"raw": b"x"}, "input_data.raw", "bytes"),
        ({"x": object()}, "input_data.x", "object"),
        ({"x": 10**5000}, "input_data.x", "digits"),
    ],
)
def test_what_jsonb_cannot_give_back_is_refused_by_its_path(value, field, words):
    with pytest.raises(InvalidValue, match=words) as caught:
        check_json(value, field="input_data")

    assert caught.value.field == field
    assert str(caught.value).startswith(f"{field}: ")


def test_json_that_passes_is_returned_as_it_is():
    class Region(StrEnum):
        EAST = "us-east-1"

    value = {"a": [1, 1.5, True, None, "Ä\U0001f600", {}, []], "b": {"c": Region.EAST}, "d": 2**70}

    assert check_json(value, field="input_data") is value
    for scalar in (None, 0, "", False, 1e308):
        assert check_json(scalar, field="x") is scalar


def test_json_that_is_too_deep_holds_itself_or_multiplies_is_refused_cleanly():
    deep = []
    for _ in range(100_000):
        deep = [deep]
    loop = {}
    loop["self"] = loop
    wide = []
    wide.extend([wide] * 1000)
    for value in (deep, loop, wide):
        with pytest.raises(InvalidValue, match="deeper than 100 levels, or holds itself"):
            check_json(value, field="input_data")

    many = []
    for _ in range(60):
        many = [many] * 10
    with pytest.raises(InvalidValue, match="more than 100,000 bytes"):
        check_json(many, field="input_data", max_bytes=100_000)


def test_depth_and_size_are_exact_and_may_be_given():
    nested = {"a": [[1]]}
    assert check_json(nested, field="x", max_depth=3) is nested
    with pytest.raises(InvalidValue) as caught:
        check_json(nested, field="x", max_depth=2)
    assert caught.value.field == "x.a[0]"

    for value in (
        "x" * 100,
        "Ä\U0001f600\n" * 10,
        [1, 2.5, -1e-300, True, None, "a"],
        {"a": {"b": [10**300]}, "ü": ""},
        [[], {}],
    ):
        size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
        assert check_json(value, field="x", max_bytes=size) is value
        with pytest.raises(InvalidValue, match=f"more than {size - 1:,} bytes"):
            check_json(value, field="x", max_bytes=size - 1)


def test_the_limits_are_those_of_the_environment_and_read_once(monkeypatch):
    payloads.limits.cache_clear()
    try:
        monkeypatch.setenv("OPTIINFRA_MAX_JSON_DEPTH", "2")
        monkeypatch.setenv("OPTIINFRA_MAX_JSON_BYTES", "2000")
        with pytest.raises(InvalidValue, match="deeper than 2 levels"):
            check_json([[[]]], field="x")
        with pytest.raises(InvalidValue, match="more than 2,000 bytes"):
            check_json("x" * 2000, field="x")

        monkeypatch.setenv("OPTIINFRA_MAX_JSON_DEPTH", "3")
        with pytest.raises(InvalidValue, match="deeper than 2 levels"):
            parse(ErrorDetails, {"type": "x", "more": [[[]]]})
        payloads.limits.cache_clear()
        check_json([[[]]], field="x")

        monkeypatch.setenv("OPTIINFRA_MAX_JSON_DEPTH", "many")
        payloads.limits.cache_clear()
        with pytest.raises(InvalidValue, match="must be a whole number") as caught:
            check_json([], field="x")
        assert caught.value.field == "OPTIINFRA_MAX_JSON_DEPTH"
    finally:
        payloads.limits.cache_clear()


any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=8)
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)


def is_same(read, value):
    """Compare what was read; PostgreSQL writes a float such as 1e+23 as a whole number."""
    if isinstance(value, list):
        return len(read) == len(value) and all(map(is_same, read, value))
    if isinstance(value, dict):
        return read.keys() == value.keys() and all(is_same(read[key], value[key]) for key in value)
    if isinstance(value, float):
        return float(read) == value
    return type(read) is type(value) and read == value


@PAST_ROLLED_BACK
@given(value=any_json)
def test_json_that_passes_is_read_back_equal_and_no_other_is_taken(conn, value):
    conn.execute("CREATE TEMPORARY TABLE IF NOT EXISTS written (value jsonb)")
    insert = "INSERT INTO written VALUES (%s) RETURNING value"
    try:
        check_json(value, field="value")
    except InvalidValue:
        with pytest.raises(Exception, match=r"JSON|json|surrogate"), conn.transaction():
            conn.execute(insert, [Jsonb(value)])
        return
    (read,) = conn.execute(insert, [Jsonb(value)]).fetchone()
    assert is_same(read, value)


def test_json_of_the_greatest_depth_is_written_and_read(conn, owner):
    value = "end"
    for _ in range(98):
        value = [value]
    record = parse(
        WorkflowRecord,
        run(
            input_data=[value],
            steps=[step(output_data={"a": value})],
            artifacts=[artifact(metadata={"a": value})],
        ),
    )

    row = workflow_executions.record_workflow_execution(conn, **owner, **record.parameters())

    assert row.input_data == [value]
    (read,) = workflow_steps.list_workflow_steps(
        conn, customer_id=owner["customer_id"], workflow_execution_id=row.id
    )
    assert read.output_data == {"a": value}


# --- types


class Sample(BaseModel):
    model_config = ConfigDict(extra="forbid")

    text: Text = ""
    name: Name = "name"
    value: JsonValue = None
    table: JsonObject = {}
    at: Timestamp = AT
    size: SizeBytes = 0
    sha256: Sha256 = DIGEST


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("text", "a\0", "holds a NUL character"),
        ("text", "\udc00", "half of a surrogate pair"),
        ("text", 5, "must be text, and is 5"),
        ("name", "", "must have at least 1 character, and is ''"),
        ("name", "x" * 256, "must have at most 255 characters, and has 256"),
        ("name", "\ud800", "half of a surrogate pair"),
        ("value", {1, 2}, "make it a list"),
        ("table", [], "must be an object, and is an empty list"),
        ("table", None, "must be an object, and is null"),
        ("at", datetime(2026, 3, 1), "must say its offset from UTC"),
        ("at", "2026-03-01T12:00:00", "must say its offset from UTC"),
        ("at", "2026-03-01", "must say its offset from UTC"),
        ("at", "10000-01-01T00:00:00Z", "years 1 to 9999"),
        ("at", "9999-12-31T23:59:59-01:00", "after year 9999 in UTC"),
        ("at", datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))), "before year 1"),
        ("at", 1772366400, "must be a time such as"),
        ("at", "yesterday", "must be a time such as .*'yesterday'"),
        ("size", -1, "must be at least 0, and is -1"),
        ("size", 2**63, "must be less than"),
        ("size", 1.5, "must be a whole number, and is 1.5"),
        ("size", True, "must be a whole number, and is true"),
        ("size", "5", "must be a whole number, and is '5'"),
        ("sha256", "0f" * 31, "64 hexadecimal digits"),
        ("sha256", "0g" * 32, "64 hexadecimal digits"),
        ("sha256", DIGEST + "\n", "64 hexadecimal digits"),
        ("nmae", 1, "is not known; did you mean name?"),
        ("colour", 1, "is not known; there are text, name"),
    ],
)
def test_a_wrong_value_is_told_in_plain_words(field, value, words):
    found = problems(parse, Sample, {field: value})

    assert list(found) == [field]
    assert re.search(words, found[field])
    assert not re.search(r"Input should|Value error|pydantic|Extra inputs", found[field])


def test_all_problems_are_told_and_the_first_is_the_field():
    found = problems(parse, Sample, {"text": 1, "size": -1, "value": {"a": [math.nan]}})

    assert list(found) == ["text", "value.a[0]", "size"]


def test_of_very_many_problems_some_are_told():
    with pytest.raises(InvalidValue, match=r"\.\.\. and 80 more$") as caught:
        parse(list[Text], [1] * 100)
    assert caught.value.field == "[0]"


def test_a_refused_value_is_not_shown_with_its_secrets():
    found = problems(parse, Sample, {"at": "password=hunter2 " + "x" * 500})

    assert "hunter2" not in found["at"]
    assert len(found["at"]) < 200


def test_pydantics_own_error_is_turned_the_same_way():
    with pytest.raises(ValidationError) as caught:
        Sample(size=-1)
    error = invalid_value(caught.value, Sample)
    assert (error.field, str(error)) == ("size", "size: must be at least 0, and is -1")


def test_times_are_in_utc_from_then_on():
    sample = parse(Sample, {"at": "2026-03-01T13:00:00+01:00"})
    assert (sample.at, sample.at.tzinfo) == (AT, UTC)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{", "not JSON"),
        ("", "not JSON"),
        (b"\xff", "not UTF-8"),
        ('{"type": "a", "type": "b"}', "'type' stands twice"),
        ("[" * 100_000, "nested too deeply"),
        ('{"type": "a", "x": NaN}', "x: is nan"),
        ('{"type": "a", "x": 1e999}', "x: is inf"),
        ('{"type": "a", "x": ' + "9" * 5000 + "}", "not JSON"),
        ('{"type": "a\\u0000"}', "type: holds a NUL"),
        ('"text"', "must be an object, and is 'text'"),
    ],
)
def test_a_text_that_is_not_json_of_the_model_is_refused(text, words):
    with pytest.raises(InvalidValue, match=words):
        parse_json(ErrorDetails, text)


def test_a_model_is_read_from_json():
    assert parse_json(ErrorDetails, json.dumps(ERROR)) == ErrorDetails(**ERROR)


# --- models


def test_what_the_sample_data_holds_is_read_by_the_models_and_written_as_it_was(conn):
    seed(conn)
    inputs = [
        (ATLAS, COST_RUN, CostAnalysisInput),
        (NIMBUS, TUNING_RUN, PerformanceTuningInput),
        (INDIE, QUALITY_RUN, QualityCheckInput),
    ]
    held = []
    for customer, run_id, model in inputs:
        detail = workflow_executions.get_workflow_detail(conn, customer_id=customer, id=run_id)
        held.append((model, detail.workflow_execution.input_data))
        held += [(ArtifactMetadata, artifact.metadata) for artifact in detail.artifacts]
        errors = [detail.workflow_execution, *detail.steps]
        held += [(ErrorDetails, row.error_details) for row in errors if row.error_details]
    cost = workflow_executions.get_workflow_execution(conn, customer_id=ATLAS, id=COST_RUN)
    held.append((CostAnalysisOutput, cost.output_data))
    states = agent_states.list_agent_states(conn, max_rows=10)
    held += [(ResourceUsage, row.agent_state.resource_usage) for row in states]

    assert {model for model, _ in held} >= {ErrorDetails, ArtifactMetadata, ResourceUsage}
    for model, value in held:
        assert dump(parse(model, value)) == value
    assert [
        parse(list[UUID], row.agent_state.active_workflows)
        for row in states
        if row.agent_state.active_workflows
    ] == [[TUNING_RUN]]


def test_locks_are_read_as_they_are_written_by_the_database(conn, owner):
    agent_id = owner["agent_id"]
    token = agent_states.acquire_agent_lock(
        conn, agent_id=agent_id, resource="cluster/eu", lease=timedelta(minutes=1)
    ).token

    state = agent_states.get_agent_state(conn, agent_id=agent_id)

    (lock,) = parse(dict[str, Lock], state.locks).values()
    assert lock.token == token
    assert lock.expires_at - lock.acquired_at == timedelta(minutes=1)


def test_what_a_model_accepts_is_written_and_read_back(conn, owner):
    usage = ResourceUsage(cpu_percent=250.5, memory_mb=512, gpus=[{"id": 0, "free": None}])
    agent_states.upsert_agent_state(
        conn,
        agent_id=owner["agent_id"],
        current_status=AgentStatusDetail.BUSY,
        resource_usage=dump(usage),
    )

    state = agent_states.get_agent_state(conn, agent_id=owner["agent_id"])
    assert parse(ResourceUsage, state.resource_usage) == usage


@pytest.mark.parametrize(
    ("model", "value", "field"),
    [
        (ErrorDetails, {}, "type"),
        (ErrorDetails, {"type": "a", "retryable": "perhaps"}, "retryable"),
        (ErrorDetails, {"type": "a", "more": {"x": "\0"}}, "more.x"),
        (ResourceUsage, {"cpu_percent": -1}, "cpu_percent"),
        (ResourceUsage, {"memory_mb": math.nan}, "memory_mb"),
        (ResourceUsage, {"memory_mb": "much"}, "memory_mb"),
        (ArtifactMetadata, {"pages": -1}, "pages"),
        (CostAnalysisInput, {"period": "last_30_days"}, "providers"),
        (CostAnalysisInput, {"period": "last_30_days", "providers": ["aws", 1]}, "providers[1]"),
        (
            PerformanceTuningInput,
            {"model": "m", "target_latency_p95_ms": 0},
            "target_latency_p95_ms",
        ),
        (QualityCheckInput, {"model": "m", "samples": 0, "threshold": 0.5}, "samples"),
        (QualityCheckInput, {"model": "m", "samples": 1, "threshold": 1.5}, "threshold"),
        (Lock, {"token": "x", "acquired_at": AT, "expires_at": AT}, "token"),
    ],
)
def test_what_does_not_have_the_shape_is_refused_by_field(model, value, field):
    assert list(problems(parse, model, value)) == [field]


# --- errors


def test_an_exception_is_described_with_what_it_was_raised_from(conn, owner):
    try:
        try:
            raise TimeoutError("no answer from billing")
        except TimeoutError as error:
            raise RuntimeError("cannot collect \0\ud83d") from error
    except RuntimeError as error:
        details = ErrorDetails.of(error, step="collect", retryable=True)

    assert (details.type, details.step, details.retryable) == ("RuntimeError", "collect", True)
    assert details.message == "cannot collect \ufffd\ufffd"
    assert "TimeoutError: no answer from billing" in details.traceback
    assert details.traceback.endswith("RuntimeError: cannot collect \ufffd\ufffd\n")
    record = parse(WorkflowRecord, run(status="failed", error_details=dump(details)))
    row = workflow_executions.record_workflow_execution(conn, **owner, **record.parameters())
    assert parse(ErrorDetails, row.error_details) == details


def test_what_is_not_known_of_an_error_is_not_written():
    assert dump(ErrorDetails.of(ValueError("x"))) == {
        "type": "ValueError",
        "message": "x",
        "traceback": "ValueError: x\n",
    }


def test_message_and_traceback_are_bounded_and_the_end_of_the_traceback_stays():
    details = ErrorDetails.of(ValueError("ä" * 100_000 + "the end"))

    assert len(details.message) == 2000
    assert details.message.startswith("ää")
    assert 8000 < len(details.traceback.encode()) <= 8192
    assert details.traceback.endswith("the end\n")


def hostile(text):
    class HostileError(Exception):
        def __str__(self):
            if isinstance(text, BaseException):
                raise text
            return text

        __repr__ = __str__

    return HostileError()


def circle():
    one, other = ValueError("one"), ValueError("other")
    one.__cause__, other.__cause__ = other, one
    return one


def chain(length):
    error = ValueError("first")
    for number in range(length):
        outer = ValueError(str(number))
        outer.__cause__ = error
        error = outer
    return error


def nested_group(depth):
    error = ValueError("inmost")
    for _ in range(depth):
        error = ExceptionGroup("group", [error])
    return error


def recursion():
    def recurse():
        recurse()

    with pytest.raises(RecursionError) as caught:
        recurse()
    return caught.value


@pytest.mark.parametrize(
    "make",
    [
        lambda: hostile(ValueError()),
        lambda: hostile(KeyboardInterrupt()),
        lambda: hostile(SystemExit()),
        lambda: hostile(5),
        lambda: hostile(None),
        lambda: hostile("x" * 20_000_000),
        ValueError,
        KeyboardInterrupt,
        lambda: ExceptionGroup("group", [ValueError("a"), hostile(TypeError())]),
        circle,
        lambda: chain(5000),
        lambda: nested_group(2000),
        recursion,
    ],
)
def test_no_exception_keeps_itself_from_being_described(make):
    details = ErrorDetails.of(make())

    check_json(dump(details), field="error_details")
    assert details.type
    assert len(details.message) <= 2000
    assert len(details.traceback.encode()) <= 8192


SECRET = "hunter2"
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiJodW50ZXIyIn0.hunter2-hunter2"


@pytest.mark.parametrize(
    "text",
    [
        f"postgresql://user:{SECRET}@host:5432/db",
        f"postgresql://user:a@b/{SECRET}@host/db",
        f"https://:{SECRET}@host/",
        f"host=h password={SECRET} dbname=d",
        f"PGPASSWORD={SECRET}",
        f"password: {SECRET}",
        f"{{'password': '{SECRET}'}}",
        f'{{"password": "two words {SECRET}"}}',
        f'{{"password": "a\\"{SECRET}"}}',
        f'{{\\"password\\": \\"two words {SECRET}\\"}}',
        f"password='it\\'s {SECRET}'",
        f"password=b'two words {SECRET}'",
        f'token="""a\n{SECRET}"""',
        f"password='{SECRET}",
        f"('password', 'two words {SECRET}')",
        f"ALTER ROLE app PASSWORD 'two words {SECRET}'",
        f"run --password {SECRET} now",
        f"--api-key={SECRET}",
        f"headers['X-Api-Key'] = '{SECRET}'",
        f"client_secret => '{SECRET}'",
        f"AWS_SECRET_ACCESS_KEY={SECRET}",
        f"apiKey:{SECRET}",
        f"https://host/?token={SECRET}",
        f"Authorization: Bearer {SECRET}",
        f"{{'Authorization': 'Basic {SECRET}'}}",
        f"authorization=Token {SECRET}",
        f"Cookie: session={SECRET}; theme=dark",
        f"it sent Bearer abcdefgh.{SECRET}",
        f"sk-{SECRET}abcdef",
        f"sk-proj-abc_{SECRET}-def",
        f"oi_live_{SECRET}abcdef",
        f"ghp_{SECRET}abcdef",
        f"github_pat_{SECRET}abcdef",
        f"xoxb-{SECRET}-abcdef",
        f"token is {JWT}",
        f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
        f"-----BEGIN PRIVATE KEY-----\\n{SECRET}\\n",
    ],
)
def test_a_secret_is_redacted_wherever_it_stands(text):
    text = f"before {text}"
    redacted = redact(text)

    assert SECRET not in redacted
    assert "[redacted]" in redacted
    assert redacted.startswith("before ")
    assert redact(redacted) == redacted
    details = ErrorDetails.of(ValueError(text))
    assert SECRET not in json.dumps(dump(details))


def test_the_key_of_aws_is_redacted():
    assert redact("id AKIAIOSFODNN7EXAMPLE here") == "id [redacted] here"


@pytest.mark.parametrize(
    "text",
    [
        "tokens_per_second=1830, max_tokens: 512, token_count=3",
        'password authentication failed for user "app"',
        "postgresql://user@host:5432/db",
        "at 12:30 me@host.example wrote",
        "the primary key = (customer_id, id)",
        "hf_transfer_enabled, sk-learn, oi_settings_module",
        "ValueError: 3 != 4",
    ],
)
def test_what_is_no_secret_stays(text):
    assert redact(text) == text


# --- records


def all_accepted_and_refused(conn, owner, values):
    """Say what the model takes of each, and what the database does."""
    for value in values:
        try:
            record = parse(WorkflowRecord, value)
        except InvalidValue:
            by_model = False
            parameters = value
        else:
            by_model = True
            parameters = record.parameters()
        try:
            with conn.transaction():
                workflow_executions.record_workflow_execution(
                    conn, **owner, **({"steps": [], "artifacts": []} | parameters)
                )
        except DatabaseError:
            yield value, by_model, False
        else:
            yield value, by_model, True


def test_a_record_of_a_run_is_taken_just_where_the_database_takes_it(conn, owner):
    choices = itertools.product(
        WorkflowStatus,
        (None, AT),
        (None, AT, LATER, AT - timedelta(seconds=1)),
        (None, ERROR),
    )
    values = [
        {
            "workflow_type": WorkflowType.HEALTH_CHECK,
            "status": status,
            "started_at": started_at,
            "completed_at": completed_at,
            "error_details": error,
        }
        for status, started_at, completed_at, error in choices
    ]

    accepted = 0
    for value, by_model, by_database in all_accepted_and_refused(conn, owner, values):
        assert by_model == by_database, value
        accepted += by_model
    assert accepted > len(WorkflowStatus)


def test_a_record_of_a_step_is_taken_just_where_the_database_takes_it(conn, owner):
    choices = itertools.product(
        StepStatus,
        (None, AT),
        (None, AT, AT - timedelta(seconds=1)),
        (None, LATER),
        (None, ERROR),
        (0, 4),
    )
    values = [
        {
            "workflow_type": WorkflowType.HEALTH_CHECK,
            "status": WorkflowStatus.RUNNING,
            "started_at": AT,
            "steps": [
                {
                    "step_name": "only",
                    "step_order": 1,
                    "status": status,
                    "started_at": started_at and started_at.isoformat(),
                    "completed_at": completed_at and completed_at.isoformat(),
                    "next_attempt_at": next_at and next_at.isoformat(),
                    "error_details": error,
                    "retry_count": retry_count,
                }
            ],
        }
        for status, started_at, completed_at, next_at, error, retry_count in choices
    ]

    accepted = 0
    for value, by_model, by_database in all_accepted_and_refused(conn, owner, values):
        assert by_model == by_database, value
        accepted += by_model
    assert accepted >= len(StepStatus)


def test_a_step_is_taken_in_a_run_just_where_the_database_takes_it(conn, owner):
    values = []
    for run_status, step_status in itertools.product(WorkflowStatus, StepStatus):
        is_over = run_status not in {"pending", "running"}
        is_step_over = step_status in {"completed", "failed", "skipped"}
        values.append(
            {
                "workflow_type": WorkflowType.HEALTH_CHECK,
                "status": run_status,
                "started_at": None if run_status == "pending" else AT,
                "completed_at": LATER if is_over else None,
                "error_details": ERROR if run_status in {"failed", "timeout"} else None,
                "steps": [
                    step(
                        status=step_status,
                        started_at=None if step_status == "pending" else AT.isoformat(),
                        completed_at=LATER.isoformat() if is_step_over else None,
                        next_attempt_at=LATER.isoformat() if step_status == "retrying" else None,
                        error_details=ERROR,
                    )
                ],
            }
        )

    found = list(all_accepted_and_refused(conn, owner, values))
    for value, by_model, by_database in found:
        assert by_model == by_database, value
    assert {by_model for _, by_model, _ in found} == {True, False}


@pytest.mark.parametrize(
    ("value", "field", "words"),
    [
        (run(started_at=None), "started_at", "is required where the status is completed"),
        (
            run(status="pending", completed_at=None),
            "started_at",
            "must be left out where the status is pending",
        ),
        (run(completed_at=None), "completed_at", "is required where the status is completed"),
        (run(completed_at="2026-03-01T11:00:00Z"), "completed_at", "is before started_at"),
        (run(status="failed"), "error_details", "is required where the status is failed"),
        (run(error_details=ERROR), "error_details", "must be left out"),
        (run(status="done"), "status", "must be 'pending', .* and is 'done'"),
        (run(workflow_type="cost"), "workflow_type", "and is 'cost'"),
        (run(attempt=0), "attempt", "must be at least 1, and is 0"),
        (run(id=str(COST_RUN), retried_from_id=str(COST_RUN)), "retried_from_id", "itself"),
        (run(id="x"), "id", "must be a UUID"),
        (run(metadata=[1]), "metadata", "must be an object"),
        (run(output_data={"a": [math.nan]}), "output_data.a[0]", "nan"),
        (run(customer_id="x"), "customer_id", "is not known"),
        (run(step=[]), "step", "did you mean steps?"),
        (run(steps=[step(), step()]), "steps[1].step_order", r"is 1 as in steps\[0\]"),
        (run(steps=[step(0)]), "steps[0].step_order", "at least 1"),
        (run(steps=[step(step_name="")]), "steps[0].step_name", "at least 1 character"),
        (run(steps=[step(sttus="x")]), "steps[0].sttus", "did you mean status?"),
        (run(steps=[step(retry_count=4)]), "steps[0].retry_count", "max_retries"),
        (
            run(steps=[step(status="running", completed_at=None)]),
            "steps[0].status",
            "a run that is completed has no open steps",
        ),
        (
            run(steps=[step(status="retrying", completed_at=None, error_details=ERROR)]),
            "steps[0].next_attempt_at",
            "is required where the status is retrying",
        ),
        (run(artifacts=[artifact(step_order=2)]), "artifacts[0].step_order", "no step of this run"),
        (run(artifacts=[artifact(), artifact()]), "artifacts[1].artifact_path", "unique"),
        (
            run(artifacts=[artifact(artifact_size_bytes=-1)]),
            "artifacts[0].artifact_size_bytes",
            "0",
        ),
        (run(artifacts=[artifact(sha256="ab")]), "artifacts[0].sha256", "64 hexadecimal digits"),
        (run(artifacts=[artifact("x" * 1025)]), "artifacts[0].artifact_path", "at most 1024"),
        (run(artifacts=[artifact(artifact_type="pdf")]), "artifacts[0].artifact_type", "report"),
    ],
)
def test_a_record_that_does_not_fit_together_is_refused_by_field(value, field, words):
    found = problems(parse, WorkflowRecord, value)

    assert list(found) == [field]
    assert re.search(words, found[field])


def test_a_record_is_written_as_it_is_and_once(conn, owner):
    run_id = uuid4()
    record = parse_json(
        WorkflowRecord,
        json.dumps(
            run(
                id=str(run_id),
                status="failed",
                error_details=ERROR,
                input_data={"a": 1},
                output_data=[1, None],
                deadline_at="2026-03-01T13:00:00+01:00",
                steps=[
                    step(1, output_data="text"),
                    step(2, status="skipped", started_at=None, retry_count=1),
                ],
                artifacts=[artifact(step_order=1, metadata={"pages": 3}), artifact("s3://other")],
            )
        ),
    )

    for _ in range(2):
        row = workflow_executions.record_workflow_execution(conn, **owner, **record.parameters())

    assert (row.id, row.status, row.started_at, row.created_at) == (run_id, "failed", AT, AT)
    assert (row.input_data, row.output_data, row.deadline_at) == ({"a": 1}, [1, None], AT)
    mine = {"customer_id": owner["customer_id"], "workflow_execution_id": run_id}
    steps = workflow_steps.list_workflow_steps(conn, **mine)
    assert [(found.step_order, found.status, found.retry_count) for found in steps] == [
        (1, "completed", 0),
        (2, "skipped", 1),
    ]
    left = workflow_artifacts.list_workflow_artifacts(conn, **mine)
    assert {found.artifact_path: found.workflow_step_id for found in left} == {
        "s3://a/b": steps[0].id,
        "s3://other": None,
    }


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
names = text.filter(bool)
stored_json = any_json.filter(lambda value: not payloads._json_problem(value, 2**20, 20))
objects = st.dictionaries(text, st.integers() | text, max_size=2)
moments = st.datetimes(timezones=st.sampled_from([UTC, timezone(timedelta(hours=-12))]))
few = st.integers(0, 2**31 - 1)


@st.composite
def spans(draw, *, has_start, has_end):
    start, end = sorted([draw(moments), draw(moments)])
    return {
        "started_at": start if has_start else None,
        "completed_at": end if has_end else None,
    }


@st.composite
def step_records(draw, order, *, is_open):
    open_states = ["pending", "running", "retrying"] if is_open else []
    status = draw(st.sampled_from([*open_states, "completed", "failed", "skipped"]))
    counts = sorted([draw(few), draw(few)])
    is_over = status in {"completed", "failed", "skipped"}
    has_start = draw(st.booleans()) if status == "skipped" else status != "pending"
    return draw(spans(has_start=has_start, has_end=is_over)) | {
        "step_name": draw(names),
        "step_order": order,
        "status": status,
        "retry_count": counts[0],
        "max_retries": counts[1],
        "next_attempt_at": draw(moments) if status == "retrying" else None,
        "input_data": draw(stored_json),
        "output_data": draw(stored_json),
        "error_details": draw(objects) if status in {"failed", "retrying"} else None,
        "metadata": draw(objects),
    }


@st.composite
def records(draw):
    status = draw(st.sampled_from(list(WorkflowStatus)))
    is_over = status not in {"pending", "running"}
    may_lack_start = status in {"cancelled", "timeout"}
    has_start = draw(st.booleans()) if may_lack_start else status != "pending"
    orders = draw(st.lists(st.integers(1, 2**31 - 1), unique=True, max_size=3))
    paths = draw(st.lists(names, unique=True, max_size=3))
    return draw(spans(has_start=has_start, has_end=is_over)) | {
        "workflow_type": draw(st.sampled_from(list(WorkflowType))),
        "status": status,
        "attempt": draw(st.integers(1, 2**31 - 1)),
        "created_at": draw(st.none() | moments),
        "deadline_at": draw(st.none() | moments),
        "input_data": draw(stored_json),
        "output_data": draw(stored_json),
        "error_details": draw(objects) if status in {"failed", "timeout"} else None,
        "metadata": draw(objects),
        "steps": [draw(step_records(order, is_open=not is_over)) for order in orders],
        "artifacts": [
            {
                "artifact_type": draw(st.sampled_from(list(ArtifactType))),
                "artifact_name": draw(names),
                "artifact_path": path,
                "artifact_size_bytes": draw(st.integers(0, 2**63 - 1)),
                "content_type": draw(names),
                "sha256": draw(st.binary(min_size=32, max_size=32)).hex(),
                "step_order": draw(st.sampled_from([None, *orders])),
                "metadata": draw(st.none() | objects),
            }
            for path in paths
        ],
    }


@PAST_ROLLED_BACK
@given(value=records())
def test_every_record_that_is_valid_is_recorded_and_read_back(conn, owner, value):
    try:
        record = parse(WorkflowRecord, value)
    except InvalidValue as error:
        assume("year" not in str(error))
        raise

    row = workflow_executions.record_workflow_execution(conn, **owner, **record.parameters())

    assert (row.status, row.attempt) == (record.status, record.attempt)
    for name in ("started_at", "completed_at", "deadline_at", "error_details", "metadata"):
        assert getattr(row, name) == getattr(record, name)
    for name in ("input_data", "output_data"):
        sent = getattr(record, name)
        assert is_same(getattr(row, name), {} if sent is None else sent)
    detail = workflow_executions.get_workflow_detail(
        conn, customer_id=owner["customer_id"], id=row.id
    )
    order_of = {step.id: step.step_order for step in detail.steps}
    sent_steps = {step.step_order: step for step in record.steps}
    assert sorted(order_of.values()) == sorted(sent_steps)
    for found in detail.steps:
        sent = sent_steps[found.step_order]
        for name in ("step_name", "status", "retry_count", "started_at", "completed_at"):
            assert getattr(found, name) == getattr(sent, name)
    assert {
        found.artifact_path: (found.sha256.hex(), order_of.get(found.workflow_step_id))
        for found in detail.artifacts
    } == {sent.artifact_path: (sent.sha256, sent.step_order) for sent in record.artifacts}
