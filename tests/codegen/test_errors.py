"""What the plugin refuses, and how it says so."""

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from . import support

SCHEMA = """
CREATE TYPE state AS ENUM ('on', 'off');
CREATE TABLE states (id integer PRIMARY KEY, "a-b" integer, a_b integer);
CREATE TABLE things (id integer PRIMARY KEY, note text, shape mystery);
"""

QUERIES = """
-- name: last_id :execlastid
INSERT INTO things (id) VALUES ($1);

-- name: typo :one
-- @nulable note
SELECT note FROM things WHERE id = $1;

-- name: ghost :one
-- @nullable notes, note
SELECT id, note FROM things WHERE id = $1;

-- name: several :many
-- @returns exactly one
SELECT id FROM things ORDER BY id;

-- name: some :one
-- @returns one
SELECT id FROM things;

-- name: effect :exec
-- @nullable note
DELETE FROM things;

-- name: clash :many
SELECT id AS "x-y", id AS x_y FROM things;

-- name: shaped :one
SELECT shape FROM things;

-- name: lost :one
-- @many parts pieces
SELECT id, array(SELECT row(states.*) FROM states) AS parts FROM things;

-- name: misspelt :one
-- @many part states
SELECT id, array(SELECT row(states.*) FROM states) AS parts FROM things;

-- name: unreadable :many
-- @many parts states
SELECT array[]::state[] AS choices, array(SELECT row(states.*) FROM states) AS parts FROM things;

-- name: brief :many
-- @row Brief
SELECT id FROM states ORDER BY id;

-- name: short :many
-- @row Brief
SELECT id, note FROM things ORDER BY id;

-- name: long :many
-- @row Brief
SELECT id, id + 1 AS next FROM things ORDER BY id;

-- name: lower :many
-- @row brief
SELECT id, note FROM things ORDER BY id;

-- name: getThing :exec
DELETE FROM things;

-- name: get_thing :exec
DELETE FROM things;
"""

COMPLAINTS = [
    "models.py: enum public.state and table public.states are both the class State; ",
    "table states: columns 'a-b' and 'a_b' are both a_b in Python; rename one",
    "table things, column shape: PostgreSQL type mystery has no Python type here; give it one with",
    "query.sql, query last_id: :execlastid is not supported; PostgreSQL has no last id; use :one",
    "query.sql, query typo: there is no mark @nulable; @nullable seems to be meant",
    "query.sql, query ghost: @nullable notes: there is no such column; it has id, note",
    "query.sql, query several: @returns exactly one is for :one queries",
    "query.sql, query some: @returns one: the only form is '@returns exactly one'",
    "query.sql, query effect: @nullable, @many, @row: a :exec query returns no columns",
    "query.sql, query clash: columns 'x-y' and 'x_y' are both x_y in Python; rename one with AS",
    "query.sql, query shaped, column shape: PostgreSQL type mystery has no Python type here; ",
    "query.sql, query lost: @many parts: there is no table pieces",
    "query.sql, query misspelt: @many part: there is no such column; it has id, parts",
    "query.sql, query unreadable: @many has rows sent in binary, which choices (array of models",
    "query.sql, query long: @row Brief: its columns differ from those of query short; select",
    "query.sql, query lower: @row brief: write the name of a class",
    "query.sql, query get_thing: query getThing takes the Python name get_thing as well; ",
]


def test_all_that_is_wrong_is_reported_at_once_through_sqlc(tmp_path: Path) -> None:
    made = support.run_sqlc(tmp_path, SCHEMA, QUERIES)
    assert made.returncode == 1
    missing = [complaint for complaint in COMPLAINTS if complaint not in made.stderr]
    assert not missing, made.stderr
    assert not (tmp_path / "generated").exists()


def run(request: object) -> str:
    """Give the plugin a request and return its complaints; it has to have some."""
    data = request if isinstance(request, bytes) else json.dumps(request).encode()
    made = subprocess.run(
        [sys.executable, str(support.PLUGIN)], input=data, capture_output=True, check=False
    )
    assert made.returncode == 1
    assert not made.stdout
    return made.stderr.decode()


def request(**changes: Any) -> dict[str, Any]:
    empty = {"settings": {"engine": "postgresql"}, "catalog": {}, "queries": []}
    return {**empty, **changes}


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"emit_classes": True}, "option emit_classes: there is no such option; the options are"),
        ({"emit_str_enum": "yes"}, "option emit_str_enum: must be true or false, not 'yes'"),
        ({"package": "a-b"}, "option package: must be a dotted module name, not 'a-b'"),
        ({"query_parameter_limit": -1}, "must be an integer >= 0, not -1"),
        ({"inflection_exclude_table_names": "a"}, "must be a list of table names"),
        ({"overrides": {}}, "option overrides: must be a list"),
        ({"translate_errors": "translate"}, "option translate_errors: must be a function by its"),
        ({"translate_errors": "a.import"}, "dotted name (shop.errors.translate), not 'a.import'"),
        ({"translate_errors": True}, "option translate_errors: must be a function by its dotted"),
        ({"overrides": [{"py_type": "x"}]}, "entry 1: give either db_type or column"),
        ({"overrides": [{"db_type": "uuid"}]}, "entry 1: give py_type"),
        (
            {"overrides": [{"db_type": "uuid", "py_type": "str", "nullable": True}]},
            "there is no key nullable; the keys are",
        ),
        ({"overrides": [{"column": "uuid", "py_type": "int"}]}, "write table.column"),
        (
            {"overrides": [{"column": "a.b", "py_type": "int"}]},
            "column a.b: there is no such column",
        ),
        ({"overrides": [{"db_type": "int4[]", "py_type": "int"}]}, "type of the elements"),
        ({"overrides": [{"db_type": "mystery", "py_type": "int"}]}, "mystery: there is no such"),
        ({"overrides": [{"db_type": "uuid", "py_type": "'x'"}]}, "must be a type; 'x' is none"),
        ({"overrides": [{"db_type": "uuid", "py_type": "a b"}]}, "a b: must be a type; it is no"),
        (
            {"overrides": [{"db_type": "uuid", "py_type": "list[PM]"}]},
            "py_import, the module of PM",
        ),
        (
            {"overrides": [{"db_type": "uuid", "py_type": "X", "py_import": "no such"}]},
            "py_import no such: must be a dotted module name",
        ),
    ],
)
def test_a_wrong_option_is_named(options: dict[str, Any], complaint: str) -> None:
    encoded = base64.b64encode(json.dumps(options).encode()).decode()
    complaints = run(request(plugin_options=encoded))
    assert complaint in complaints
    assert len(complaints.splitlines()) == 1


def test_another_engine_is_refused() -> None:
    assert "only postgresql is supported, not mysql" in run(request(settings={"engine": "mysql"}))


def test_what_is_no_request_is_refused() -> None:
    assert "set 'format: json' for this plugin" in run(b"\x00protobuf")
    assert "this program is run by sqlc" in run({})


@pytest.mark.parametrize("name", ["models.sql", "_runtime.sql", "aio.sql"])
def test_a_query_file_may_not_take_a_name_of_the_generators(name: str) -> None:
    queries = [{"name": "x", "cmd": ":exec", "text": "SELECT 1", "filename": name}]
    module = name.removesuffix(".sql")
    assert f"{name}: {module}.py is a module of the generator's" in run(request(queries=queries))


@pytest.mark.parametrize(
    ("command", "text", "complaint"),
    [
        (":copyfrom", "INSERT INTO t (a) VALUES (lower($1))", ":copyfrom takes INSERT INTO table"),
        (":copyfrom", "INSERT INTO t (a) VALUES ($1) RETURNING a", ":copyfrom takes INSERT INTO"),
        (":batchexec", "DELETE FROM t", "a :batchexec query needs parameters"),
        (":one", "DELETE FROM t", "a :one query has to return columns; use :exec if it does not"),
    ],
)
def test_a_command_that_the_query_cannot_have_is_refused(
    command: str, text: str, complaint: str
) -> None:
    column = {"name": "a", "type": {"name": "text"}}
    params = [{"number": 1, "column": column}] if "$1" in text else []
    query = {"name": "x", "cmd": command, "text": text, "filename": "q.sql", "params": params}
    assert f"q.sql, query x: {complaint}" in run(request(queries=[query]))


def test_marks_of_other_tools_are_prose() -> None:
    comments = [" @author bob", " @param id the key", " @Deprecated", " @nullabel a", " @Row X"]
    query = {"name": "x", "cmd": ":exec", "text": "SELECT 1", "filename": "q.sql"}
    complaints = run(request(queries=[{**query, "comments": comments}])).splitlines()
    assert complaints == [
        "q.sql, query x: there is no mark @nullabel; @nullable seems to be meant",
        "q.sql, query x: there is no mark @Row; @row seems to be meant",
    ]


def test_a_schema_file_that_is_not_found_is_named() -> None:
    column = {"name": "a", "type": {"name": "email"}}
    table = {"rel": {"name": "t"}, "columns": [column]}
    catalog = {"schemas": [{"name": "public", "tables": [table]}]}
    settings = {"engine": "postgresql", "schema": ["there/*.sql"]}
    complaints = run(request(catalog=catalog, settings=settings))
    assert "no schema file is at there/*.sql: run sqlc in the folder of its config" in complaints


@pytest.mark.parametrize("schema", ["schema/*.sql", "schema", "schema/b.sql"])
def test_domains_are_found_wherever_the_schema_is(tmp_path: Path, schema: str) -> None:
    folder = tmp_path / "schema"
    folder.mkdir()
    (folder / "b.sql").write_text("/* x */ CREATE DOMAIN email AS /* y */ integer ARRAY;")
    column = {"name": "a", "type": {"name": "email"}, "not_null": True}
    table = {"rel": {"name": "t"}, "columns": [column]}
    catalog = {"schemas": [{"name": "public", "tables": [table]}]}
    settings = {"engine": "postgresql", "schema": [schema]}
    made = subprocess.run(
        [sys.executable, str(support.PLUGIN)],
        input=json.dumps(request(catalog=catalog, settings=settings)).encode(),
        cwd=tmp_path,
        capture_output=True,
        check=True,
    )
    files = {file["name"]: file["contents"] for file in json.loads(made.stdout)["files"]}
    assert "    a: list[int]" in base64.b64decode(files["models.py"]).decode()


def test_two_query_files_may_not_become_one_module() -> None:
    queries = [
        {"name": f"q{n}", "cmd": ":exec", "text": "SELECT 1", "filename": name}
        for n, name in enumerate(["a-b.sql", "a_b.sql"])
    ]
    assert "a_b.sql: a-b.sql becomes a_b.py as well" in run(request(queries=queries))


def test_an_old_python_is_told_so(tmp_path: Path) -> None:
    source = support.PLUGIN.read_text(encoding="utf-8")
    fake = "import sys\nsys.version_info = (3, 8, 0)\n"
    script = tmp_path / "plugin"
    script.write_text(source.replace("import sys\n", fake, 1), encoding="utf-8")
    made = subprocess.run(
        [sys.executable, str(script)], input="", capture_output=True, text=True, check=False
    )
    assert made.returncode == 1
    assert made.stderr.startswith("sqlc-gen-psycopg needs Python 3.11 or newer, and python3 on the")


def test_it_runs_from_any_folder_with_hardly_an_environment(tmp_path: Path) -> None:
    link = tmp_path / "plugin"
    link.symlink_to(support.PLUGIN)
    made = subprocess.run(
        [str(link)],
        input=json.dumps(request()).encode(),
        cwd=tmp_path,
        env={"PATH": f"{support.BIN}:/usr/bin:/bin"},
        capture_output=True,
        check=True,
    )
    files = {file["name"] for file in json.loads(made.stdout)["files"]}
    assert files == {"__init__.py", "_runtime.py", "models.py", "aio/__init__.py"}
