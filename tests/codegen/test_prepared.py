"""A statement that the connection has prepared is sent without a cursor, and nobody can tell."""

import asyncio
import json
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from .conftest import Api
from .test_execution import CANONICAL, fields, one_of_each


@pytest.fixture
def runtime(nasty: ModuleType) -> ModuleType:
    return nasty._runtime  # type: ignore[no-any-return]


@pytest.fixture(params=["prepared"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(api: Api) -> Callable[..., Any]:
    """Do something with the connection, awaiting it where it has to be."""

    def run(method: str, *args: Any) -> Any:
        made = getattr(api.conn, method)(*args)
        return api.run(made) if api.run else made

    return run


@pytest.fixture
def call(api: Api, runtime: ModuleType, flavour: str) -> Callable[..., Any]:
    """Call a function of the runtime, or its asynchronous twin."""

    def call(name: str, sql: str, *args: Any) -> Any:
        prefix = "async_" if flavour == "async" else ""
        made = getattr(runtime, prefix + name)(api.conn, sql, args, runtime.first)
        return api.run(made) if api.run else made

    return call


@pytest.fixture
def without_cursor(runtime: ModuleType) -> Iterator[None]:
    def refuse(*_: Any, **__: Any) -> None:
        pytest.fail("a cursor was made")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runtime, "_Cursor", refuse)
        patch.setattr(runtime, "_AsyncCursor", refuse)
        yield


@pytest.mark.parametrize("name", ["one", "exactly_one", "many"])
def test_a_cursor_is_made_only_till_a_statement_is_prepared(
    call: Callable[..., Any], runtime: ModuleType, name: str, request: pytest.FixtureRequest
) -> None:
    first = call(name, "SELECT $1::int", 1)
    request.getfixturevalue("without_cursor")
    assert call(name, "SELECT $1::int", 1) == first


def test_a_statement_is_prepared_for_each_type_of_its_arguments(call: Callable[..., Any]) -> None:
    for _ in range(2):
        assert call("one", "SELECT pg_typeof($1)::text || $1", 1.5) == "double precision1.5"
        assert call("one", "SELECT pg_typeof($1)::text || $1", True) == "booleantrue"


def test_every_type_and_null_come_as_they_do_through_a_cursor(api: Api) -> None:
    values = one_of_each(api.models)
    for number in (1, 3):
        row = api.everything.insert_everything(**values)
        assert fields(row) == values | CANONICAL | {"id": number}
        assert api.everything.get_everything(id=number) == row
        nothing = api.everything.insert_everything()
        assert set(fields(nothing).values()) == {number + 1, None}


def test_one_takes_the_first_of_several_rows(call: Callable[..., Any]) -> None:
    for _ in range(2):
        assert call("one", "SELECT generate_series($1, 3)", 1) == 1
        assert call("one", "SELECT generate_series($1, 3)", 4) is None
        assert call("many", "SELECT generate_series($1, 3)", 1) == [1, 2, 3]


def test_an_error_is_that_of_a_cursor_and_the_connection_goes_on(call: Callable[..., Any]) -> None:
    assert call("one", "SELECT 1 / $1::int", 1) == 1
    with pytest.raises(psycopg.errors.DivisionByZero, match="division by zero"):
        call("one", "SELECT 1 / $1::int", 0)
    assert call("one", "SELECT 1 / $1::int", 1) == 1


def test_an_error_is_readable_in_another_encoding(
    call: Callable[..., Any], run: Callable[..., Any]
) -> None:
    run("execute", "SET client_encoding = latin1")
    assert call("one", "SELECT $1::text::int", "1") == 1
    with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="ü"):
        call("one", "SELECT $1::text::int", "ü")


def test_a_transaction_is_begun_where_there_is_none(
    api: Api, call: Callable[..., Any], run: Callable[..., Any]
) -> None:
    call("one", "SELECT $1::int", 1)
    run("set_autocommit", False)
    for _ in range(2):
        call("one", "SELECT $1::int", 1)
        assert api.conn.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS
        run("commit")


@pytest.mark.parametrize("order", ["DISCARD ALL", "DEALLOCATE ALL"])
def test_what_the_server_was_told_to_forget_is_prepared_anew(
    call: Callable[..., Any], run: Callable[..., Any], order: str
) -> None:
    for _ in range(3):
        assert call("one", "SELECT $1::int", 1) == 1
        run("execute", order)


def test_the_least_used_statement_makes_room(api: Api, call: Callable[..., Any]) -> None:
    api.conn.prepared_max = 2
    for number in [*range(4), 3, 0, 3, 1, 3]:
        assert call("one", f"SELECT $1::int + {number}", 1) == number + 1
    assert {query.split()[-1] for query, _ in api.conn._prepared._names} == {b"1", b"3"}


def test_a_psycopg_that_keeps_its_statements_elsewhere_gets_cursors(
    api: Api, call: Callable[..., Any], runtime: ModuleType
) -> None:
    class Other:
        def __getattr__(self, name: str) -> Any:
            if name == "_prepared":
                raise AttributeError(name)
            return getattr(api.conn, name)

    call("one", "SELECT $1::int", 1)
    assert runtime._send(Other(), "SELECT $1::int", (1,), binary=False) is None


def test_notifications_are_heard(
    api: Api, call: Callable[..., Any], run: Callable[..., Any]
) -> None:
    heard: list[str] = []
    api.conn.add_notify_handler(lambda notify: heard.append(notify.payload))
    run("execute", "LISTEN people")
    for _ in range(2):
        call("one", "SELECT pg_notify('people', $1)", "hired")
    assert heard == ["hired", "hired"]


def test_a_closed_connection_says_so(call: Callable[..., Any], run: Callable[..., Any]) -> None:
    call("one", "SELECT $1::int", 1)
    run("close")
    with pytest.raises(psycopg.OperationalError, match="the connection is closed"):
        call("one", "SELECT $1::int", 1)


@pytest.mark.parametrize("flavour", ["async"])
def test_a_cancelled_call_leaves_the_connection_usable(
    api: Api, call: Callable[..., Any], runtime: ModuleType
) -> None:
    async def wait_for_it() -> None:
        sql = "SELECT pg_sleep($1)::text"
        await asyncio.wait_for(runtime.async_one(api.conn, sql, (60,), runtime.first), 0.1)

    call("one", "SELECT pg_sleep($1)::text", 0)
    assert api.run
    with pytest.raises(TimeoutError):
        api.run(wait_for_it())
    assert call("one", "SELECT $1::int", 1) == 1


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text(), values, max_size=3),
    max_leaves=8,
)


@given(value=JSON)
def test_json_is_read_as_the_standard_library_reads_it(nasty: ModuleType, value: Any) -> None:
    runtime = nasty._runtime
    spaced, packed = json.dumps(value, indent=1), json.dumps(value, ensure_ascii=False)
    for loader, text in (
        (runtime._JsonLoader, f"\n{spaced} ".encode()),
        (runtime._JsonbLoader, packed.encode()),
        (runtime._JsonbBinaryLoader, b"\x01" + spaced.encode()),
    ):
        assert loader(0).load(text) == json.loads(text.lstrip(b"\x01"))
        assert loader(0).load(memoryview(text)) == json.loads(text.lstrip(b"\x01"))
