"""What docs/ shows is true: its code runs, page by page and in order, on the sample data.

recipes.md, questions.md, feed.md, history.md and scaling.md have tests of their own; plans.md shows
how a query begins.
"""

import logging
import os
import re
import subprocess
import sys
import tomllib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from optiinfra_db import connect
from optiinfra_db.artifacts import verify_artifacts
from optiinfra_db.generated import customers, recommendations, workflow_executions
from optiinfra_db.generated.models import WorkflowStatus
from optiinfra_db.seed import ATLAS, COST, INDIE, QUALITY_RUN, seed
from optiinfra_db.telemetry import OptiInfraInstrumentor

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NOT_GUIDES = {"recipes.md", "questions.md", "feed.md", "history.md", "plans.md", "scaling.md"}


def blocks(page):
    """Return the blocks of code of a page, each with its language."""
    text = (DOCS / page).read_text()
    return re.findall(r"^```(python|sql|console)\n(.*?)^```", text, re.S | re.M)


@pytest.fixture
def run(database_url, server, monkeypatch, tmp_path):
    """Run blocks as a reader would: Python in one session, the rest on the same database."""
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", database_url)
    programs = [str(Path(sys.executable).parent), str(server.bin_dir), os.environ["PATH"]]
    monkeypatch.setenv("PATH", os.pathsep.join(programs))
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "docs"}

    def run(language, text):
        if language == "python":
            exec(compile(text, "docs", "exec"), names)
        elif language == "sql":
            with connect(database_url) as conn:
                conn.execute(text)
        else:
            text = re.sub(r"^pip install .*\n", "", text, flags=re.M)
            subprocess.run(["bash", "-euc", text], check=True)

    return run


def run_page(page, run):
    for language, text in blocks(page):
        run(language, text)


@pytest.fixture
def conn(database_url):
    with connect(database_url) as conn:
        seed(conn)
        yield conn


def test_every_page_with_code_is_tested():
    # "guides/command-line.md" is tried by tests/cli, "guides/grafana.md" by test_grafana.py,
    # "guides/replication.md" by tests/replication.
    generated = {"tables", "queries"}
    pages = {
        str(page.relative_to(DOCS))
        for page in DOCS.rglob("*.md")
        if page.relative_to(DOCS).parts[0] not in generated
    }
    tested = set(re.findall(r'"(guides/[\w-]+\.md)"', Path(__file__).read_text()))
    assert {page for page in pages if blocks(page)} - NOT_GUIDES == tested


def test_every_page_is_in_the_navigation():
    text = (ROOT / "zensical.toml").read_text()
    nav = str(tomllib.loads(text)["project"]["nav"])
    named = set(re.findall(r"'([\w/-]+(?:\.md|/))'", nav))
    pages = {
        f"{path.parts[0]}/" if path.parts[0] in {"tables", "queries"} else str(path)
        for path in (page.relative_to(DOCS) for page in DOCS.rglob("*.md"))
    }
    assert named == pages


@pytest.mark.parametrize(
    "page",
    [
        "guides/getting-started.md",
        "guides/sync-and-async.md",
        "guides/errors.md",
        "guides/poolers.md",
        "guides/payloads.md",
        "guides/artifacts.md",
        "guides/api-keys.md",
    ],
)
def test_what_a_guide_shows_says_something(page, run, conn, capfd):
    run_page(page, run)
    assert capfd.readouterr().out


def test_the_guide_to_testing_is_a_suite_that_passes(tmp_path):
    shown = [text for language, text in blocks("guides/testing.md") if language == "python"]
    (tmp_path / "test_guide.py").write_text("\n".join(shown))
    options = ["-o", "asyncio_mode=auto", "-o", "asyncio_default_fixture_loop_scope=function"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *options, "-p", "no:cacheprovider", tmp_path],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert " 4 passed" in done.stdout, done.stdout


def test_the_guide_to_security_makes_logins(run, conn, capfd):
    try:
        run_page("guides/security.md", run)
        bound = conn.execute("SELECT rolname FROM pg_roles WHERE rolname ~ '^optiinfra_tenant_'")
        assert bound.fetchall() == [(f"optiinfra_tenant_{ATLAS}",)]
    finally:
        names = ("cost_agent", "customer_portal", "analyst", f'"optiinfra_tenant_{ATLAS}"')
        conn.execute(f"DROP ROLE IF EXISTS {', '.join(names)}")
    assert capfd.readouterr().out == "['Atlas Bank']\n1\n"


def test_the_guide_to_proofs_seals_and_verifies(run, conn, capfd):
    run_page("guides/audit.md", run)
    shown = capfd.readouterr().out
    assert "Sealed(events=0, seals=0)" in shown
    assert "OK: 8 events" in shown


def test_the_guide_to_telemetry_traces(run, conn, capfd):
    try:
        run_page("guides/telemetry.md", run)
    finally:
        OptiInfraInstrumentor().uninstrument()
        logging.basicConfig(force=True, handlers=[])
    assert capfd.readouterr().out


def test_the_recorder_records_what_its_guide_shows(run, conn, capfd, monkeypatch, tmp_path):
    run_page("guides/recorder.md", run)

    runs = workflow_executions.list_workflow_executions(conn, customer_id=ATLAS, max_rows=6)
    statuses = [WorkflowStatus.COMPLETED] * 6
    statuses[3] = WorkflowStatus.FAILED  # the one that died
    assert [found.status for found in runs] == statuses
    assert capfd.readouterr().out.splitlines() == [
        "collect_metrics completed {'metrics': 1247}",
        "analyze completed {'idle_gpus': 4}",
        "{'savings': 70800}",
        "{'savings': 60000}",
        "{'savings': 70800}",
        "cost_analysis {'savings': 70800}",
    ]
    assert (tmp_path / "reports" / "cost.md").read_text() == "# Savings\n"
    checks = verify_artifacts(conn, customer_id=ATLAS, workflow_execution_id=runs[-1].id)
    assert [check.problem for check in checks] == [None]


def test_the_run_of_the_guide_is_recorded(run, conn):
    run_page("guides/recording.md", run)

    newest, *_ = workflow_executions.list_workflow_executions(conn, customer_id=ATLAS, max_rows=1)
    detail = workflow_executions.get_workflow_detail(conn, customer_id=ATLAS, id=newest.id)
    assert detail.workflow_execution.status is WorkflowStatus.COMPLETED
    assert [step.retry_count for step in detail.steps] == [0, 1, 0]
    assert [artifact.artifact_name for artifact in detail.artifacts] == [
        "savings.svg",
        "report.log",
        "report.md",
    ]
    (found,) = recommendations.list_workflow_recommendations(
        conn, customer_id=ATLAS, workflow_execution_id=newest.id
    )
    assert found.title == "Release 4 idle GPUs"


def test_the_failed_run_of_the_guide_is_found_and_retried(run, conn):
    run_page("guides/debugging.md", run)

    lineage = workflow_executions.get_workflow_lineage(conn, customer_id=INDIE, id=QUALITY_RUN)
    assert [(found.attempt, found.status) for found in lineage] == [(1, "failed"), (2, "pending")]


def test_retention_archives_drops_deletes_and_brings_back(run, conn, capfd):
    month = datetime(2025, 1, 15, tzinfo=UTC)
    conn.execute(
        "INSERT INTO agent_metrics (agent_id, metric_name, recorded_at, metric_value) "
        "VALUES (%s, 'old', %s, 1)",
        [COST, month],
    )
    conn.execute(
        "INSERT INTO events (customer_id, created_at, event_type) VALUES (%s, %s, 'note.old')",
        [ATLAS, month],
    )
    conn.execute("SELECT ensure_partitions(0)")
    old = workflow_executions.record_workflow_execution(
        conn,
        customer_id=ATLAS,
        agent_id=COST,
        workflow_type="health_check",
        status="completed",
        started_at=datetime.now(UTC) - timedelta(days=500),
        completed_at=datetime.now(UTC) - timedelta(days=499),
        steps=[],
        artifacts=[],
    )

    run_page("guides/retention.md", run)

    left = conn.execute("SELECT relname FROM pg_class WHERE relname ~ '_2025_01$'").fetchall()
    assert left == []
    runs = workflow_executions.list_workflow_executions(conn, customer_id=ATLAS, max_rows=9)
    assert len(runs) == 1
    assert old.id != runs[0].id
    assert customers.get_customer(conn, id=INDIE) is not None, "it was imported again"
    told = capfd.readouterr()
    assert "case 2026-17" in told.out
    assert "dropped agent_metrics_2025_01: 1 rows" in told.out
    assert "dropped events_2025_01: 1 rows" in told.out
    assert "Erased Indie" in told.err
    assert len(list(Path("archives").rglob("manifest.json"))) >= 4


*_, (_, DUMP_AND_RESTORE) = blocks("guides/upgrading.md")  # the rest is in tests/replication


def test_a_dump_is_restored_as_the_guide_says(run, conn, empty_database_url, monkeypatch):
    monkeypatch.setenv("OLD_URL", os.environ["OPTIINFRA_DATABASE_URL"])
    monkeypatch.setenv("NEW_URL", empty_database_url)

    run("console", DUMP_AND_RESTORE)

    count = "SELECT count(*), (SELECT count(*) FROM workflow_steps) FROM events"
    with connect(empty_database_url) as new:
        assert new.execute(count).fetchall() == conn.execute(count).fetchall()
        assert new.execute("SELECT DISTINCT xact_id FROM events").fetchall() == [("0",)]


def test_the_worker_of_the_docs_claims_does_and_ends_a_run(database_url, monkeypatch):
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", database_url)
    text = (ROOT / "docs" / "history.md").read_text()
    (snippet,) = re.findall(r"^```python\n(import time.*?)^```", text, re.S | re.M)
    names: dict = {}
    exec(compile(snippet, "history.md", "exec"), names)
    with connect() as conn:
        seed(conn)
        good, bad = (
            workflow_executions.create_workflow_execution(
                conn,
                customer_id=ATLAS,
                agent_id=COST,
                workflow_type="health_check",
                step_names=["a", "b"],
                max_retries=1,
            )
            for _ in range(2)
        )
        done = []

        def do(name):
            done.append(name)
            if len(done) == 1 or len(done) > 3:
                raise OSError("no network")
            return {}

        assert [names["work_once"](COST, do) for _ in range(3)] == [True, True, False]
        assert done == ["a", "a", "b", "a", "a"]
        for run, status in ((good, "completed"), (bad, "failed")):
            found = workflow_executions.get_workflow_execution(conn, customer_id=ATLAS, id=run.id)
            assert found.status == status
