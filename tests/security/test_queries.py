"""Every generated function, with hostile values in each of its parameters.

A call stores and returns what it was given, or raises an error of ours; it writes to no row that an
ordinary one does not write to, and leaves the connection as it was.
"""

import json
from datetime import timedelta
from uuid import UUID

import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.types.json import Jsonb

from optiinfra_db.errors import InvalidValue, OptiInfraError
from optiinfra_db.generated.agent_metrics import CopyAgentMetricsParams
from optiinfra_db.generated.events import CopyEventsParams

from ..plans.explain import promises
from . import hostile
from .conftest import Query

QUERIES = [Query(name, {}) for name in promises()]
TEXT_PARAMETERS = [
    (query.name, parameter)
    for query in QUERIES
    for parameter, annotation in query.annotations.items()
    if hostile.kind(annotation) is str
]
JSON_PARAMETERS = [
    (query.name, parameter)
    for query in QUERIES
    for parameter, annotation in query.annotations.items()
    if hostile.is_json(annotation)
]
COPIES = {
    "agent_metrics.copy_agent_metrics": CopyAgentMetricsParams,
    "events.copy_events": CopyEventsParams,
}
LONGEST_MESSAGE = 2_000
INTRANS = psycopg.pq.TransactionStatus.INTRANS


def ready(target, name):
    """Have work for a function to do, and return how many rows of which table it writes then."""
    target.prepare(name)
    before = target.written()
    with target.conn.transaction(force_rollback=True):
        target.call(name, {})
    return since(before, target)


def since(before, target):
    return {table: rows - before.get(table, 0) for table, rows in target.written().items()}


def attack(target, name, parameter, value, usual):
    """Call a function with one hostile value, undo it, and say what is wrong with what it did."""
    savepoint = target.conn.transaction(force_rollback=True)
    is_text = isinstance(value, str) and (name, parameter) in TEXT_PARAMETERS
    before = target.written()
    problem = None
    try:
        with savepoint:
            try:
                returned = target.call(name, {parameter: value})
            except OptiInfraError:
                is_ours = target.conn.info.transaction_status == INTRANS
                if is_ours and any(since(before, target).values()):
                    problem = "was done, and refused after that"
                raise
            if is_text or ((name, parameter) in JSON_PARAMETERS and is_value(value)):
                problem = difference(returned, parameter, value)
    except OptiInfraError as error:
        return problem or wrong_message(error)
    except Exception as error:
        return f"raised {error!r:.200}"
    if is_text:
        more = {t: rows for t, rows in since(before, target).items() if rows > usual.get(t, 0)}
        if more:
            return f"wrote {more}"
    return problem


def is_value(value):
    """Whether it is one that JSON gives back equal."""
    try:
        return json.loads(json.dumps(value)) == value and type(value) in {dict, list}
    except (TypeError, ValueError, RecursionError):
        return False


def difference(returned, parameter, value):
    """Say what came back in place of what was stored, or looked for."""
    rows = returned if isinstance(returned, list) else [returned]
    stored = [getattr(row, parameter) for row in rows if hasattr(row, parameter)]
    if parameter == "email":
        value = value.lower()
    if stored and value not in stored:
        return f"{value!r:.60} became {stored[0]!r:.60}"
    return None


def wrong_message(error):
    message = str(error)
    if len(message) > LONGEST_MESSAGE:
        return f"a message of {len(message)} characters: {message:.60}"
    if "Failing row" in message:
        return f"a message with a row: {message:.200}"
    message.encode()  # or it cannot be logged
    return None


@pytest.mark.parametrize("name", sorted(promises().keys() - COPIES))
def test_hostile_values_do_no_harm(target, name):
    annotations = Query(name, {}).annotations
    problems, attacks = {}, 0
    with target.conn.transaction(force_rollback=True):
        usual = ready(target, name)
        for parameter, annotation in annotations.items():
            for value in hostile.for_parameter(annotation):
                attacks += 1
                if problem := attack(target, name, parameter, value, usual):
                    problems[f"{parameter} = {hostile.shown(value)}"] = problem
    assert problems == {}
    assert attacks or not annotations


@pytest.mark.parametrize("name", COPIES)
def test_hostile_values_in_rows_to_be_copied_do_no_harm(target, name):
    (row,) = target.queries[name].arguments["rows"]
    good = vars_of(row)
    annotations = hostile.annotations(COPIES[name])
    problems = {}
    for field in good:
        for value in hostile.for_parameter(annotations[field]):
            rows = [row, COPIES[name](**(good | {field: value}))]
            try:
                with target.conn.transaction(force_rollback=True):
                    assert target.call(name, {"rows": rows}) == len(rows)
            except OptiInfraError as error:
                problem = wrong_message(error)
            except Exception as error:
                problem = f"raised {error!r:.200}"
            else:
                problem = None
            if problem:
                problems[f"{field} = {hostile.shown(value)}"] = problem
    assert problems == {}


def vars_of(row):
    return {name: getattr(row, name) for name in row.__slots__}


# Any code point, halves of surrogate pairs too.
any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=300)
# Beyond 1e15 a float comes back as an int.
any_float = st.floats(-1e15, 1e15) | st.sampled_from([float("inf"), float("nan")])
any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | any_float | any_text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(any_text, inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(TEXT_PARAMETERS), any_text)
def test_any_text_does_no_harm(target, at, text):
    assert attack_once(target, *at, text) is None


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(JSON_PARAMETERS), any_json)
def test_any_json_does_no_harm(target, at, value):
    assert attack_once(target, *at, value) is None


def attack_once(target, name, parameter, value):
    """Attack where the database is ready for it."""
    with target.conn.transaction(force_rollback=True):
        return attack(target, name, parameter, value, ready(target, name))


# What is large, and what no value of Python becomes


def test_a_text_of_64_megabytes_is_stored_and_returned(target):
    name = "recommendations.create_recommendation"
    with target.conn.transaction(force_rollback=True):
        assert target.call(name, {"description": hostile.HUGE}).description == hostile.HUGE


@pytest.mark.parametrize(
    ("name", "parameter"),
    [
        ("agents.get_agent_by_name", "type"),
        ("customers.create_customer", "email"),
        ("events.list_events", "customer_id"),
    ],
)
def test_a_text_of_64_megabytes_is_refused_in_few_words(target, name, parameter):
    with pytest.raises(InvalidValue) as caught, target.conn.transaction(force_rollback=True):
        target.call(name, {parameter: hostile.HUGE})
    assert wrong_message(caught.value) is None


def test_an_object_of_a_million_keys_is_stored_and_returned(target):
    metadata = {f"key {number}": number for number in range(1_000_000)}
    name = "workflow_artifacts.update_workflow_artifact_metadata"
    with target.conn.transaction(force_rollback=True):
        assert target.call(name, {"metadata": metadata}).metadata == metadata


def test_lists_of_a_million_items_are_taken(target):
    million = 1_000_000
    given = {
        "customer_ids": [UUID(int=0)] * million,
        "ids": [UUID(int=0)] * million,
        "attempts": [1] * million,
        "output_data": [None] * million,
    }
    with target.conn.transaction(force_rollback=True):
        assert target.call("workflow_executions.complete_workflow_executions", given) == []


@pytest.mark.parametrize(
    "text",
    [
        "[" * hostile.DEEP + "]" * hostile.DEEP,
        "[" * hostile.DEEP,
        '{"a":' * hostile.DEEP,
        '{"a": 1e400000}',
        '{"a": -1e400000}',
        '{"a": NaN}',
        '{"a": Infinity}',
        '{"a": "\\u0000"}',
        '{"a": "\\ud800"}',
        '{"a": "\\udc00\\ud800"}',
        '{"\\u0000": 1}',
        '{"a": "\x01"}',
        "{'a': 1}",
        '{"a": 1,}',
        '{"a": 1}; DROP TABLE canary',
        '{"a": 1} {"b": 2}',
        "",
        " ",
        "\x00",
        "\ud800",
    ],
    ids=lambda text: repr(text[:20]),
)
def test_text_that_is_no_json_is_refused_where_it_is_passed_as_such(target, text):
    for name, parameter in JSON_PARAMETERS:
        value = Jsonb({}, dumps=lambda _: text)
        with (
            pytest.raises(InvalidValue),
            target.conn.transaction(force_rollback=True),
        ):
            target.call(name, {parameter: value})


def test_of_a_key_that_stands_twice_the_last_is_stored(target):
    name = "workflow_artifacts.update_workflow_artifact_metadata"
    value = Jsonb({}, dumps=lambda _: '{"a": 1, "a": 2}')
    with target.conn.transaction(force_rollback=True):
        assert target.call(name, {"metadata": value}).metadata == {"a": 2}


# What others may have written, that Python cannot hold


@pytest.mark.parametrize(
    ("column", "stored"),
    [
        ("metadata", f'{{"a": 1{"0" * 5_000}}}'),
        ("metadata", f'{{"a": {"[" * 5_000}{"]" * 5_000}}}'),
        ("created_at", "infinity"),
        ("created_at", "-infinity"),
        ("created_at", "4713-01-01 BC"),
        ("created_at", "294276-01-01"),
    ],
)
def test_what_python_cannot_hold_is_a_typed_error_that_says_where_to_correct_it(
    target, column, stored
):
    for name in ("get_customer", "list_customers"):
        with target.conn.transaction(force_rollback=True):
            target.conn.execute(f"UPDATE customers SET {column} = %s", [stored])
            with pytest.raises(InvalidValue, match="correct it there") as caught:
                target.call(f"customers.{name}", {})
        assert wrong_message(caught.value) is None


# What errors tell


def test_no_message_shows_a_row_or_a_hash(target):
    secret = bytes(range(32))
    create = "customers.create_customer"
    messages = []
    for changed in ({"name": ""}, {"name": None}, {}, {"metadata": []}):
        with target.conn.transaction(force_rollback=True):
            target.call(create, {"email": "a@b.example", "api_key_hash": secret})
            with pytest.raises(OptiInfraError) as caught:
                target.call(create, {"email": "c@d.example", "api_key_hash": secret} | changed)
        messages.append(str(caught.value))
    assert "this api_key_hash is there already" in messages[2]
    for message in messages:
        assert secret.hex() not in message
        assert "c@d.example" not in message
        assert "Failing row" not in message


def test_a_value_of_another_type_is_told_by_its_parameter(target):
    for value in (object(), "\ud800", {"a"}):
        with (
            pytest.raises(InvalidValue, match=r"\(parameter \$2 of the query\)") as caught,
            target.conn.transaction(force_rollback=True),
        ):
            target.call("agents.get_agent_by_name", {"name": value})
        assert isinstance(caught.value.__cause__, psycopg.DataError)
    for value in (True, 1.5, timedelta(1)):
        with pytest.raises(InvalidValue), target.conn.transaction(force_rollback=True):
            target.call("customers.get_customer", {"id": value})
