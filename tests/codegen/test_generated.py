"""The generated text: as committed, the same twice, formatted, linted, typed."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from . import support


def tool(*command: str, cwd: Path) -> str:
    """Run a checker of the environment's and return what it complains of."""
    made = subprocess.run(
        [str(support.BIN / command[0]), *command[1:]],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )
    return "" if made.returncode == 0 else made.stdout + made.stderr


def test_the_output_is_the_golden_one(nasty_folder: Path) -> None:
    if os.environ.get("UPDATE_GOLDEN"):
        shutil.rmtree(support.GOLDEN, ignore_errors=True)
        shutil.copytree(nasty_folder, support.GOLDEN, ignore=shutil.ignore_patterns("__pycache__"))
    assert support.files_in(nasty_folder) == support.files_in(support.GOLDEN)


def test_generating_twice_gives_the_same_bytes(
    nasty_folder: Path, nasty_url: str, tmp_path: Path
) -> None:
    again = support.generated(
        tmp_path / "elsewhere",
        support.NASTY / "schema.sql",
        support.NASTY / "queries",
        database_url=nasty_url,
    )
    assert support.files_in(again) == support.files_in(nasty_folder)


def test_formatting_the_output_changes_nothing(
    nasty_folder: Path, other_folders: dict[str, Path]
) -> None:
    folders = [str(folder) for folder in (nasty_folder, *other_folders.values())]
    config = str(support.ROOT / "pyproject.toml")
    assert not tool("ruff", "format", "--diff", "--config", config, *folders, cwd=support.ROOT)


@pytest.mark.parametrize("config", ["the project's", "none"])
def test_the_output_is_clean_under_ruff(
    nasty_folder: Path, other_folders: dict[str, Path], config: str
) -> None:
    folders = [str(folder) for folder in (nasty_folder, *other_folders.values())]
    path = str(support.ROOT / "pyproject.toml")
    options = ["--isolated"] if config == "none" else ["--config", path]
    assert not tool("ruff", "check", *options, *folders, cwd=support.ROOT)


NAMES = """
CREATE TYPE quite_a_long_name_for_an_enum AS ENUM (
    'a label of sixty characters, give or take one: 1234567890'
);
CREATE TABLE users (id int NOT NULL, kind quite_a_long_name_for_an_enum NOT NULL, note text, l int);
CREATE TABLE user_books_with_a_name_that_goes_on (
    a_column_with_a_long_name int NOT NULL, another_column_with_a_long_name int NOT NULL,
    one_more_column_with_a_long_name quite_a_long_name_for_an_enum NOT NULL
);
"""
QUERIES = """
-- name: List :one
SELECT note FROM users WHERE l = $1;
-- name: ListUsers :one
SELECT kind FROM users;
-- name: ListUserBooks :one
SELECT id, note FROM users;
-- name: GetUZ :one
SELECT id, l FROM users;
-- name: GetUser :one
SELECT * FROM users;
-- name: O :one
SELECT u.id, sqlc.embed(b), sqlc.embed(c) FROM users AS u
JOIN user_books_with_a_name_that_goes_on AS b ON true
LEFT JOIN user_books_with_a_name_that_goes_on AS c ON true;
-- name: TheKindOfTheFirst :one
SELECT kind FROM users WHERE id = sqlc.arg(list_of_users);
"""


def test_ordinary_names_and_long_ones_are_clean_too(tmp_path: Path) -> None:
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "pydantic": {"emit_pydantic_models": True, "query_parameter_limit": 0},
        "none": {"emit_sync_querier": False, "emit_async_querier": False},
    }
    made = support.run_sqlc(tmp_path, NAMES, QUERIES, outs=options)
    assert made.returncode == 0, made.stderr
    folders = [str(tmp_path / name) for name in options]
    config = ["--config", str(support.ROOT / "pyproject.toml")]
    for checks in (["check", *config], ["check", "--isolated"], ["format", "--diff", *config]):
        assert not tool("ruff", *checks, *folders, cwd=support.ROOT)


@pytest.fixture(scope="session")
def typed_folder(
    nasty_folder: Path, other_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Gather all that was generated, and a module that uses it as a user would."""
    folder = tmp_path_factory.mktemp("typed")
    for made in (nasty_folder, *other_folders.values()):
        shutil.copytree(made, folder / made.name)
    library = Path(__file__).parent / "library"
    shutil.copy(library / "library_types.py", folder)
    shutil.copy(library / "usage.py", folder)
    return folder


def test_the_output_passes_mypy_strict(typed_folder: Path, tmp_path: Path) -> None:
    cache = f"--cache-dir={tmp_path}"
    python = f"--python-executable={sys.executable}"
    assert not tool("mypy", "--strict", cache, python, ".", cwd=typed_folder)


def test_the_output_passes_pyright(typed_folder: Path) -> None:
    assert not tool("pyright", "--pythonpath", sys.executable, ".", cwd=typed_folder)


def test_importing_registers_nothing(nasty_folder: Path) -> None:
    check = (
        "import psycopg, copy\n"
        "a = psycopg.adapters\n"
        "def state(): return ({f: dict(d) for f, d in a._dumpers.items()},"
        " [dict(d) for d in a._loaders], dict(a.types._registry))\n"
        "before = state()\n"
        "import nasty_generated.everything, nasty_generated.aio.everything\n"
        "assert state() == before\n"
    )
    made = subprocess.run(
        [sys.executable, "-W", "error", "-c", check],
        cwd=nasty_folder.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr


def test_async_modules_export_the_same_names_and_objects(nasty: ModuleType) -> None:
    for name in ("people", "names", "everything", "measurements", "texts", "joins"):
        sync, twin = getattr(nasty, name), getattr(nasty.aio, name)
        assert sync.__all__ == twin.__all__
        for exported in sync.__all__:
            same = getattr(sync, exported) is getattr(twin, exported)
            assert same == (not exported.islower())


def test_constants_hold_the_sql_as_written(nasty: ModuleType) -> None:
    written = (support.NASTY / "queries" / "texts.sql").read_text(encoding="utf-8")
    line = next(line for line in written.splitlines() if line.startswith("SELECT '100%'"))
    assert f"-- name: nasty_text :one\n{line.removesuffix(';')}\n" == nasty.texts.NASTY_TEXT


def test_docs_come_from_comments(nasty: ModuleType) -> None:
    assert nasty.people.create_person.__doc__.startswith("Hire someone.\n\n")
    assert "@returns" not in nasty.people.create_person.__doc__
    assert nasty.models.Person.__doc__ == "Who works here."
    source = Path(nasty.models.__file__ or "").read_text(encoding="utf-8")
    person = next(
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and node.name == "Person"
    )
    last: Any = person.body[-1]
    assert last.value.value == "Whom they report to; NULL for the boss."
