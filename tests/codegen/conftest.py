"""The nasty schema, generated once a session, and connections of every kind to run it on."""

import asyncio
import inspect
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row
from psycopg.types.enum import EnumInfo, register_enum
from psycopg.types.json import set_json_dumps, set_json_loads
from psycopg.types.numeric import FloatLoader

from . import support


@pytest.fixture(scope="session")
def nasty_url(server: Any) -> str:
    """Make the database of the nasty schema."""
    schema = (support.NASTY / "schema.sql").read_text(encoding="utf-8")
    return support.new_database(server.url("postgres"), server.url("nasty"), "nasty", schema)


@pytest.fixture(scope="session")
def nasty_folder(nasty_url: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Generate the code of the nasty schema."""
    return support.generated(
        tmp_path_factory.mktemp("nasty"),
        support.NASTY / "schema.sql",
        support.NASTY / "queries",
        out="nasty_generated",
        database_url=nasty_url,
    )


@pytest.fixture(scope="session")
def other_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Generate the library schema with options, most of them without a database."""
    folder = tmp_path_factory.mktemp("library")
    upstream = {"emit_sync_querier": True, "emit_async_querier": True}
    options: dict[str, dict[str, Any]] = {
        "lib_package": {**upstream, "package": "lib_package"},
        "lib_pydantic": {**upstream, "emit_pydantic_models": True, "query_parameter_limit": 0},
        "lib_sync": {
            "emit_async_querier": False,
            "emit_str_enum": False,
            "omit_unused_models": True,
        },
        "lib_async": {"emit_sync_querier": False, "query_parameter_limit": 1},
        "lib_exact": {
            **upstream,
            "emit_exact_table_names": True,
            "emit_str_enum": True,
            "inflection_exclude_table_names": [],
        },
        "lib_errors": {
            "translate_errors": "library_types.translate_unless_a_query_is_wrong",
        },
        "lib_overrides": {
            "inflection_exclude_table_names": ["authors"],
            "overrides": [
                {"column": "books.details", "py_import": "library_types", "py_type": "Details"},
                {"column": "books.links", "py_import": "library_types", "py_type": "Link"},
                {"db_type": "isbn", "py_type": "str"},
                {"db_type": "pg_catalog.numeric", "py_type": "float"},
                {"column": "extras.kind", "py_import": "library_types", "py_type": "Kind"},
                {"column": "extras.facts", "py_import": "typing", "py_type": "dict[str, Any]"},
                {"column": "extras.numbers", "py_type": "list[int] | None"},
                {"column": "authors.born", "py_import": "library_types", "py_type": "Year"},
            ],
        },
    }
    types = (support.NASTY.parent / "library" / "library_types.py").read_text(encoding="utf-8")
    (folder / "library_types.py").write_text(types)
    library = support.NASTY.parent / "library"
    made = support.run_sqlc(folder, library / "schema.sql", library / "query.sql", outs=options)
    assert made.returncode == 0, made.stderr
    return {name: folder / name for name in options}


@pytest.fixture(scope="session")
def nasty(nasty_folder: Path) -> ModuleType:
    """Import the code of the nasty schema."""
    return support.import_package(nasty_folder)


class Api:
    """The generated functions of one flavour on one connection, called the same way.

    `api.people.get_person(id=1)` calls the sync function, or awaits its async twin.
    """

    def __init__(self, package: ModuleType, conn: Any, run: Callable[[Any], Any] | None) -> None:
        self.conn = conn
        self.run = run
        self.models = package.models
        self._functions = package.aio if run else package

    def __getattr__(self, name: str) -> "ApiModule":
        return ApiModule(self, getattr(self._functions, name))


class ApiModule:
    def __init__(self, api: Api, module: ModuleType) -> None:
        self._api = api
        self._module = module

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._module, name)
        if not inspect.isfunction(found):
            return found
        return lambda *args, **kwargs: self._result(found(self._api.conn, *args, **kwargs))

    def _result(self, result: Any) -> Any:
        return self._api.run(result) if self._api.run and inspect.iscoroutine(result) else result


def _own_adapters(conn: Any, package: ModuleType, url: str) -> None:
    """Register on the connection what a user might: everything is different."""
    conn.adapters.register_loader("numeric", FloatLoader)
    conn.adapters.register_loader("int8", FloatLoader)
    conn.adapters.register_loader("text", FloatLoader)
    with psycopg.connect(url) as other:
        info = EnumInfo.fetch(other, "mood")
    assert info
    register_enum(
        info, conn, package.models.Mood, mapping={m: m.value for m in package.models.Mood}
    )
    set_json_loads(lambda data: f"loaded {len(data)}", conn)
    set_json_dumps(lambda value: '"dumped"', conn)


KINDS = (
    "autocommit",
    "transaction",
    "dict_row",
    "own_adapters",
    "client_cursor",
    "server_cursor",
    "unprepared",
    "prepared",
    "pipeline",
)


@pytest.fixture(params=["sync", "async"])
def flavour(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="session")
def runner() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture
def api(
    kind: str, flavour: str, nasty: ModuleType, nasty_url: str, runner: asyncio.Runner
) -> Iterator[Api]:
    """Provide the generated functions on a connection of each kind, in an empty database."""
    options: dict[str, Any] = {"autocommit": kind not in {"transaction", "server_cursor"}}
    if kind == "dict_row":
        options["row_factory"] = dict_row
    if kind in {"unprepared", "prepared"}:
        options["prepare_threshold"] = None if kind == "unprepared" else 0
    with ExitStack() as stack:
        stack.callback(_empty, nasty_url)
        if flavour == "sync":
            conn = stack.enter_context(psycopg.connect(nasty_url, **options))
            api = Api(nasty, conn, None)
        else:
            aconn = runner.run(psycopg.AsyncConnection.connect(nasty_url, **options))
            stack.callback(lambda: runner.run(aconn.close()))
            api = Api(nasty, aconn, runner.run)
        cursors: dict[str, Any] = {
            "client_cursor": (psycopg.ClientCursor, psycopg.AsyncClientCursor),
            "server_cursor": (psycopg.ServerCursor, psycopg.AsyncServerCursor),
        }
        if kind in cursors:
            api.conn.cursor_factory = cursors[kind][flavour == "async"]
        if kind == "own_adapters":
            _own_adapters(api.conn, nasty, nasty_url)
        if kind == "pipeline":
            pipeline = api.conn.pipeline()
            if flavour == "sync":
                stack.enter_context(pipeline)
            else:
                runner.run(pipeline.__aenter__())
                stack.callback(lambda: runner.run(pipeline.__aexit__(None, None, None)))
        yield api


def _empty(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(
            'TRUNCATE everything, list, "model", "Odd Table", people, addresses, optional,'
            " other.statuses, measurements, documents, shapes, accounts, words, books, other.books"
            " RESTART IDENTITY"
        )


@pytest.fixture
def plain(nasty_url: str) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
    """Connect without the generated code, to look at what it did."""
    with psycopg.connect(nasty_url, autocommit=True) as conn:
        yield conn
