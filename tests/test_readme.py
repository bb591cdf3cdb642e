"""What the README shows is true: its SQL and its function are in the sources, its code runs."""

import re
from pathlib import Path

import pytest

from optiinfra_db import connect
from optiinfra_db.generated import workflow_executions
from optiinfra_db.generated.models import WorkflowStatus
from optiinfra_db.seed import ATLAS, COST, seed

ROOT = Path(__file__).parents[1]
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", (ROOT / "README.md").read_text(), re.S | re.M)
SQL = [text for language, text in BLOCKS if language == "sql"]
PYTHON = [text for language, text in BLOCKS if language == "python"]
SIGNATURE, *SNIPPETS = PYTHON


def test_the_query_and_its_function_are_those_of_the_sources():
    (sql,) = SQL
    assert sql in (ROOT / "queries" / "workflow_steps.sql").read_text()
    assert SIGNATURE in (ROOT / "generated" / "workflow_steps.py").read_text()


def test_every_target_and_variable_of_the_sources_is_explained():
    readme = (ROOT / "README.md").read_text()
    targets = re.findall(r"^([a-z]+):.*## ", (ROOT / "Makefile").read_text(), re.M)
    assert len(targets) > 10
    for name in {*targets, "OPTIINFRA_DATABASE_URL", "OPTIINFRA_DATA_DIR", "OPTIINFRA_POOLER"} - {
        "help"
    }:
        assert re.search(rf"\b{name}\b", readme), name


@pytest.mark.parametrize("snippet", SNIPPETS, ids=lambda text: text.splitlines()[0])
def test_the_snippets_run(snippet, database_url, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", database_url)
    with connect() as conn:
        seed(conn)

    names: dict = {"__name__": "snippet"}
    exec(compile(snippet, "README.md", "exec"), names)

    if "analyze" not in names:
        assert capsys.readouterr().out.count("\n") >= 1
        return
    names["analyze"](ATLAS, COST)
    with connect() as conn:
        run, *_ = workflow_executions.list_workflow_executions(conn, customer_id=ATLAS, max_rows=1)
    assert run.status is WorkflowStatus.COMPLETED
