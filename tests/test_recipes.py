"""Each recipe of docs/recipes.md, pasted into psql on the sample data, shows what it says."""

import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import NamedTuple

import pytest

from optiinfra_db import connect, embedded
from optiinfra_db.generated import workflow_executions, workflow_steps
from optiinfra_db.seed import INDIE, NIMBUS, QUALITY_RUN, TUNING_RUN, seed

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
UPDATE = "UPDATE customers SET metadata = '{}' WHERE id = %s"


class Recipe(NamedTuple):
    """A heading of the third level: what to paste, after what its section opens with."""

    title: str
    setup: str
    language: str
    text: str
    output: str | None


def recipes() -> Iterator[Recipe]:
    for section in re.split(r"^## ", PAGE, flags=re.M)[1:]:
        opening, *parts = re.split(r"^### ", section, flags=re.M)
        setup = "".join(re.findall(r"^```sql\n(.*?)^```", opening, re.S | re.M))
        for part in parts:
            (language, text), *outputs = re.findall(r"^```(\w*)\n(.*?)^```", part, re.S | re.M)
            output = outputs[0][1] if outputs else None
            yield Recipe(part.partition("\n")[0], setup, language, text, output)


RECIPES = {recipe.title: recipe for recipe in recipes()}
IN_SQL = [recipe for recipe in RECIPES.values() if recipe.language == "sql"]


@pytest.fixture
def seeded_url(database_url):
    with connect(database_url) as conn:
        seed(conn)
    return database_url


def psql(url, sql):
    """Paste into psql, and return what it shows, without the spaces at the ends of lines."""
    result = subprocess.run(
        [embedded.find_bin_dir() / "psql", "-Xq", "-v", "ON_ERROR_STOP=1", url],
        input=sql,
        capture_output=True,
        text=True,
        check=False,
        env={"PGOPTIONS": "-c timezone=UTC"},
    )
    assert result.stderr == ""
    return re.sub(r" +$", "", result.stdout, flags=re.M).strip("\n") + "\n"


@contextmanager
def open_transaction(url):
    with connect(url) as conn, conn.transaction():
        conn.execute(UPDATE, [NIMBUS])
        yield


@contextmanager
def queue_for_a_lock(url):
    def write():
        with connect(url) as conn:
            conn.execute(UPDATE, [NIMBUS])

    with ThreadPoolExecutor() as pool, connect(url) as conn, open_transaction(url):
        writing = pool.submit(write)
        query = "SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"
        while conn.execute(query).fetchone() is None:
            assert not writing.done()
            time.sleep(0.01)
        yield


SCENES = {
    "Which transaction has been open longest": open_transaction,
    "What keeps vacuum from cleaning up": open_transaction,
    "Who waits for whom": queue_for_a_lock,
}
"""What goes on meanwhile, for those that show nothing on a database where nothing does."""


@pytest.mark.parametrize("recipe", IN_SQL, ids=lambda recipe: recipe.title)
def test_a_recipe_shows_what_it_says(recipe, seeded_url):
    with SCENES.get(recipe.title, nullcontext)(seeded_url):
        shown = psql(seeded_url, recipe.setup + recipe.text)

    if recipe.output is not None:
        assert shown == recipe.output
    else:
        rows = re.findall(r"^\((\d+) rows?\)$|^-\[ RECORD (\d+)", shown, re.M)
        assert rows, shown
        assert rows != [("0", "")], shown


@pytest.mark.parametrize("title", SCENES)
def test_what_is_asked_of_sessions_is_seen_only_while_it_goes_on(title, seeded_url):
    assert psql(seeded_url, RECIPES[title].text).endswith("\n(0 rows)\n")


def status(url, customer_id, id):
    with connect(url) as conn:
        return workflow_executions.get_workflow_execution(
            conn, customer_id=customer_id, id=id
        ).status


@pytest.mark.parametrize(
    ("title", "expected"), [("Cancel a run", "cancelled"), ("Fail a run", "failed")]
)
def test_a_run_is_ended_with_its_steps_by_who_said_so(title, expected, seeded_url):
    recipe = RECIPES[title]
    psql(seeded_url, recipe.setup + recipe.text)

    assert status(seeded_url, NIMBUS, TUNING_RUN) == expected
    with connect(seeded_url) as conn:
        of_run = {"customer_id": NIMBUS, "workflow_execution_id": TUNING_RUN}
        steps = workflow_steps.list_workflow_steps(conn, **of_run)
        assert [step.status for step in steps[2:]] == ["failed", "skipped"]
        query = "SELECT DISTINCT actor FROM events WHERE data ->> 'from' = 'running'"
        assert conn.execute(query).fetchall() == [("ada",)]


def retried(url, monkeypatch, capsys):
    """Run the recipe that retries, and return the run that it made."""
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", url)
    names: dict = {}
    exec(compile(RECIPES["Retry it"].text, "recipes.md", "exec"), names)
    assert "retried_from_id" in capsys.readouterr().out
    return names["retry"]


def test_a_run_is_retried_once(seeded_url, monkeypatch, capsys):
    retry = retried(seeded_url, monkeypatch, capsys)
    assert (retry.customer_id, retry.retried_from_id, retry.attempt) == (INDIE, QUALITY_RUN, 2)
    assert retried(seeded_url, monkeypatch, capsys) == retry

    recipe = RECIPES["All attempts at it"]
    for run in (QUALITY_RUN, retry.id):
        setup = recipe.setup.replace(str(QUALITY_RUN), str(run))
        first, second = psql(seeded_url, setup + recipe.text).splitlines()[2:4]
        assert first.split(" | ")[1] == "failed "
        assert first.endswith(str(QUALITY_RUN))
        assert second.split(" | ")[1] == "pending"
        assert second.endswith(str(retry.id))


def test_the_timeline_tells_each_attempt_at_a_step(seeded_url, monkeypatch, capsys):
    run = retried(seeded_url, monkeypatch, capsys)
    of_run = {"customer_id": INDIE, "workflow_execution_id": run.id}
    with connect(seeded_url, actor="worker-1") as conn:
        workflow_executions.start_workflow_execution(conn, customer_id=INDIE, id=run.id)
        last = workflow_steps.list_workflow_steps(conn, **of_run)[-1]
        workflow_steps.start_workflow_step(conn, **of_run, id=last.id)
        error = {"type": "Timeout", "message": "no answer"}
        workflow_steps.fail_workflow_step(
            conn, **of_run, id=last.id, retry_count=0, retryable=True, error_details=error
        )

    recipe = RECIPES["Its timeline, and who did what"]
    setup = recipe.setup.replace(str(QUALITY_RUN), str(run.id))
    shown = psql(seeded_url, setup + recipe.text)

    lines = [[cell.strip() for cell in line.split("|")[1:]] for line in shown.splitlines()[2:-1]]
    assert lines == [
        ["workflow_execution.pending", "", "", "", "ada"],
        ["workflow_execution.running", "", "", "", "worker-1"],
        ["workflow_step.running", "compare_to_threshold", "0", "", "worker-1"],
        ["workflow_step.retrying", "compare_to_threshold", "1", "no answer", "worker-1"],
    ]
