"""The option translate_errors: errors in the user's terms, whichever way a query runs."""

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest

from . import support

REFUSED = "SELECT 1 / $1::int"
WRONG = "SELECT nothing, $1::int"
COPY = "COPY numbers (number) FROM STDIN"


@pytest.fixture(scope="session")
def runtime(other_folders: dict[str, Path]) -> ModuleType:
    """Import the runtime that the option makes."""
    folder = other_folders["lib_errors"]
    sys.path.insert(0, str(folder.parent))
    try:
        return support.import_package(folder)._runtime  # type: ignore[no-any-return]
    finally:
        sys.path.remove(str(folder.parent))


@pytest.fixture
def call(
    server: Any, runtime: ModuleType, flavour: str, runner: asyncio.Runner
) -> Iterator[Callable[..., Any]]:
    """Call a function of the runtime, or its asynchronous twin, on a connection."""
    table = "CREATE TEMPORARY TABLE numbers (number int PRIMARY KEY)"
    if flavour == "sync":
        with psycopg.connect(server.url("postgres"), autocommit=True) as conn:
            conn.execute(table)
            yield lambda name, *args: getattr(runtime, name)(conn, *args)
        return
    aconn = runner.run(psycopg.AsyncConnection.connect(server.url("postgres"), autocommit=True))
    runner.run(aconn.execute(table))
    yield lambda name, *args: runner.run(getattr(runtime, f"async_{name}")(aconn, *args))
    runner.run(aconn.close())


def values(row: Any) -> tuple[Any, ...]:
    return (row,)


EXECUTED = ["one", "exactly_one", "many", "execute", "execute_rows", "execute_result"]
BATCHES = ["batch_execute", "batch_one", "batch_many"]


def arguments(runtime: ModuleType, name: str, sql: str) -> list[Any]:
    made = [sql, values, [1, 0]] if name in BATCHES else [sql, (0,)]
    needs_maker = "make" in inspect.signature(getattr(runtime, name)).parameters
    return [*made, runtime.first] if needs_maker else made


def test_each_way_to_run_a_query_is_tested(runtime: ModuleType) -> None:
    found = {
        name
        for name, function in inspect.getmembers(runtime, inspect.isfunction)
        if "sql" in inspect.signature(function).parameters and not name.startswith("_")
    }
    names = {*EXECUTED, *BATCHES, "copy"}
    assert found == names | {f"async_{name}" for name in names}


@pytest.mark.parametrize("name", EXECUTED + BATCHES)
def test_an_error_is_translated(runtime: ModuleType, call: Callable[..., Any], name: str) -> None:
    refused = sys.modules["library_types"].RefusedError
    with pytest.raises(refused, match="division by zero") as caught:
        call(name, *arguments(runtime, name, REFUSED))
    assert isinstance(caught.value.__cause__, psycopg.errors.DivisionByZero)


@pytest.mark.parametrize("value", [object(), "\ud800", "\0", [{}]], ids=repr)
@pytest.mark.parametrize("name", EXECUTED + BATCHES)
def test_a_value_that_cannot_be_written_is_told_by_its_place(
    runtime: ModuleType, call: Callable[..., Any], name: str, value: object
) -> None:
    made = arguments(runtime, name, "SELECT 1 WHERE $1::text = ''")
    made[-1 if made[-1] is not runtime.first else -2] = [value] if name in BATCHES else (value,)
    with pytest.raises(
        sys.modules["library_types"].RefusedError, match=r"\(parameter \$1 of the query\)"
    ) as caught:
        call(name, *made)
    assert isinstance(caught.value.__cause__, psycopg.DataError)


def test_what_is_no_matter_of_a_value_stays_as_it_is(runtime: ModuleType) -> None:
    with pytest.raises(AttributeError):
        runtime.one(None, "SELECT 1", (), runtime.first)


@pytest.mark.parametrize("name", EXECUTED + BATCHES)
def test_what_is_not_translated_stays_as_it_is(
    runtime: ModuleType, call: Callable[..., Any], name: str
) -> None:
    with pytest.raises(psycopg.errors.UndefinedColumn) as caught:
        call(name, *arguments(runtime, name, WRONG))
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("rows", [[1, 1], ["x"], [2**40], ["\ud800"]], ids=ascii)
def test_an_error_of_a_copy_is_translated(call: Callable[..., Any], rows: list[Any]) -> None:
    with pytest.raises(sys.modules["library_types"].RefusedError) as caught:
        call("copy", COPY, (), values, rows)
    assert isinstance(caught.value.__cause__, psycopg.Error)
    assert call("copy", COPY, (), values, [1]) == 1


@pytest.mark.parametrize("name", ["copy", *BATCHES])
def test_an_error_of_the_callers_rows_passes_untouched(
    runtime: ModuleType, call: Callable[..., Any], name: str
) -> None:
    theirs = psycopg.errors.UniqueViolation("of another connection")

    def rows() -> Iterator[int]:
        yield 1
        raise theirs

    made = arguments(runtime, name, REFUSED)
    made = [COPY, (), values, rows()] if name == "copy" else [*made[:2], rows(), *made[3:]]
    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        call(name, *made)
    assert caught.value is theirs
    assert theirs.__cause__ is None
    assert call("copy", COPY, (), values, [1]) == 1


@pytest.mark.parametrize("flavour", ["async"])
def test_an_error_of_the_callers_asynchronous_rows_passes_too(call: Callable[..., Any]) -> None:
    theirs = psycopg.errors.UniqueViolation("of another connection")

    async def rows(*, fail: bool) -> AsyncIterator[int]:
        yield 1
        if fail:
            raise theirs
        yield 1

    with pytest.raises(psycopg.errors.UniqueViolation) as caught:
        call("copy", COPY, (), values, rows(fail=True))
    assert caught.value is theirs
    with pytest.raises(sys.modules["library_types"].RefusedError):
        call("copy", COPY, (), values, rows(fail=False))


def test_a_lost_connection_in_a_copy_is_translated(call: Callable[..., Any], server: Any) -> None:
    pid = call("one", "SELECT pg_backend_pid() WHERE $1 = 0", (0,), lambda row: row[0])

    def rows() -> Iterator[int]:
        with psycopg.connect(server.url("postgres"), autocommit=True) as other:
            other.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])
        yield from range(100_000)

    with pytest.raises(sys.modules["library_types"].RefusedError):
        call("copy", COPY, (), values, rows())


def test_without_the_option_nothing_is_imported(
    other_folders: dict[str, Path], nasty_folder: Path
) -> None:
    line = "from library_types import translate_unless_a_query_is_wrong as _translate\n"
    assert line in (other_folders["lib_errors"] / "_runtime.py").read_text(encoding="utf-8")
    for folder in (other_folders["lib_package"], nasty_folder):
        text = (folder / "_runtime.py").read_text(encoding="utf-8")
        assert "import translate" not in text
        assert "I001" not in text
