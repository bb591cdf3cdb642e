import itertools
import json
import os
import re
import shlex
from pathlib import Path

import pytest
import typer
from pydantic import TypeAdapter

from optiinfra_db import __version__
from optiinfra_db.cli import app

from .command import run

ROOT = typer.main.get_command(app)


def walk(command, path=()):
    if hasattr(command, "commands"):
        for name, child in command.commands.items():
            yield from walk(child, (*path, name))
    else:
        yield path, command


COMMANDS = dict(walk(ROOT))


def test_the_commands_are_those_that_are_promised():
    groups = {
        "": "migrate distribute rollback status seed demo doctor psql stop savings report feed "
        "seal verify-audit audit-bundle prune archive erase export import receipts maintain",
        "workflows": "list show watch retry cancel record diff",
        "agents": "list watch stale",
        "recommendations": "list approve reject trace",
        "artifacts": "list verify orphans",
        "metrics": "list plot",
        "customers": "list keys rotate-key revoke-key",
        "partitions": "list ensure drop",
        "retention": "list set remove",
        "holds": "list place release",
    }
    promised = {
        (*filter(None, [group]), name) for group, names in groups.items() for name in names.split()
    }
    assert set(COMMANDS) == promised


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_with_an_example_that_it_takes(path):
    result = run(*path, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    name, *words = words_of(result.stdout.split("Example: ")[1])
    assert (name, tuple(words[: len(path)])) == ("optiinfra-db", path)
    COMMANDS[path].make_context(path[-1], words[len(path) :])
    assert ("--database-url" in result.stdout) == (path != ("stop",))


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_fits_80_columns_and_no_sentence_of_a_list_is_cut(path):
    result = run(*path[:-1], "--help")
    assert "..." not in result.stdout.replace("[ARGS]...", "")
    for line in (*result.stdout.splitlines(), *run(*path, "--help").stdout.splitlines()):
        assert len(line) <= 81, line


def commands_of_guide():
    guide = (Path(__file__).parents[2] / "docs/guides/command-line.md").read_text()
    for block in re.findall(r"^```console\n(.*?)^```", guide, re.S | re.M):
        yield from block.splitlines()


def words_of(line):
    """Return the words of the first command of a line, without what the shell does with it."""
    words = shlex.split(line, comments=True)
    return list(itertools.takewhile(lambda word: word not in {"||", "|", ">>", ">"}, words))


@pytest.mark.parametrize("line", list(commands_of_guide()))
def test_the_commands_of_the_guide_are_taken(line):
    name, *words = words_of(line)
    assert name == "optiinfra-db"
    if words == ["--install-completion"]:
        return
    path = next(path for path in COMMANDS if tuple(words[: len(path)]) == path)
    COMMANDS[path].make_context(path[-1], words[len(path) :])


def test_the_guide_shows_every_command():
    shown = {tuple(words_of(line)[1:]) for line in commands_of_guide()}
    for path in COMMANDS:
        if path not in {("migrate",), ("rollback",), ("seed",), ("demo",), ("stop",)} | {
            ("recommendations", "reject")
        }:
            assert any(words[: len(path)] == path for words in shown), path


def test_help_lists_exit_codes_and_settings():
    result = run("--help")
    for text in ("Exit codes", "OPTIINFRA_DATABASE_URL", "130", "--install-completion"):
        assert text in result.stdout


def test_the_version_is_the_packages():
    from importlib.metadata import version

    assert run("--version").stdout == f"optiinfra-db {version('optiinfra-db')}\n"
    assert version("optiinfra-db") == __version__


def test_the_shell_completes_commands_and_options():
    env = {
        "_OPTIINFRA_DB_COMPLETE": "complete_bash",
        "COMP_WORDS": "optiinfra-db workflows li",
        "COMP_CWORD": "2",
    }
    assert run(env=env).stdout.split() == ["list"]
    assert "_OPTIINFRA_DB_COMPLETE" in run("--show-completion", env={"SHELL": "/bin/bash"}).stdout


def test_the_shapes_of_json_are_those_that_are_documented():
    """What is taken away or renamed breaks programs: only add. `UPDATE_GOLDEN=1` writes it."""
    from optiinfra_db import shapes

    file = Path(__file__).parents[2] / "docs/command-line.schema.json"
    models = [
        found
        for found in vars(shapes).values()
        if isinstance(found, type) and issubclass(found, shapes.Shape) and found is not shapes.Shape
    ]
    _, schema = TypeAdapter.json_schemas(
        [(model, "serialization", TypeAdapter(model)) for model in models],
        title="What optiinfra-db prints with --json",
    )
    text = json.dumps(schema, indent=2) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(text)
    assert text == file.read_text()
