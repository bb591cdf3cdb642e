"""Every option and argument of the command line that takes text, with hostile texts.

A command ends with an exit code that is documented and without a traceback, writes nothing where it
only reads, and sends nothing to the terminal that moves its cursor: neither what it was given nor
what a row holds.
"""

import contextlib
import io
import json
import sys
import unicodedata
from pathlib import Path

import pytest

from optiinfra_db import connect
from optiinfra_db.cli import main
from optiinfra_db.generated import (
    agent_metrics,
    agents,
    customers,
    events,
    recommendations,
    workflow_artifacts,
    workflow_executions,
)
from optiinfra_db.generated.models import AgentType, ArtifactType, WorkflowType
from optiinfra_db.seed import seed

from ..cli.test_help import COMMANDS
from ..cli.test_states import RECOMMENDATION, RUN
from ..conftest import cloned_database
from . import hostile
from .conftest import contents

EXIT_CODES = {0, 1, 2, 3, 4, 5, 6}
TEXTS = [text for text in hostile.TEXTS if "\0" not in text and len(text) < 2**16]
EVERY = 8
"""Each parameter gets each so manieth text; all of them, taken together, get all."""

GIVEN = {
    ("artifacts", "list"): [RUN],
    ("artifacts", "orphans"): ["store", "--customer", "atlas"],
    ("artifacts", "verify"): [RUN],
    ("audit-bundle",): ["--customer", "atlas", "--output", "bundle.jsonl"],
    ("archive",): ["archives", "--older-than=1w", "--yes"],
    ("customers", "keys"): ["atlas"],
    ("customers", "revoke-key"): ["atlas", "01941f29-7c00", "--yes"],
    ("customers", "rotate-key"): ["atlas", "--yes"],
    ("erase",): ["nobody", "--yes"],
    ("export",): ["atlas", "exported"],
    ("holds", "place"): ["atlas", "--reason=x"],
    ("holds", "release"): ["01941f29-7c00", "--yes"],
    ("import",): ["nowhere"],
    ("metrics", "list"): ["cost-1"],
    ("partitions", "drop"): ["--older-than=520w", "--yes"],
    ("prune",): ["--older-than=520w", "--yes"],
    ("metrics", "plot"): ["cost-1", "monthly_cost_usd"],
    ("recommendations", "approve"): [RECOMMENDATION, "--yes"],
    ("recommendations", "reject"): [RECOMMENDATION, "--yes"],
    ("recommendations", "trace"): [RECOMMENDATION],
    ("workflows", "cancel"): [RUN, "--yes"],
    ("workflows", "diff"): [RUN, "01941f29-7c00-7000-8000-000000000023"],
    ("workflows", "record"): ["runs.json", "--customer", "atlas", "--agent", "cost-1"],
    ("workflows", "retry"): ["01941f29-7c00-7000-8000-000000000023", "--yes"],
    ("workflows", "show"): [RUN],
    ("distribute",): ["--yes"],
    ("report",): ["--json"],
    ("retention", "remove"): ["01941f29-7c00", "--yes"],
    ("retention", "set"): ["runs", "52w"],
    ("rollback",): ["--to", "99"],
}
"""What a command does not do without."""
WRITES = {
    ("agents", "stale"),
    ("archive",),
    ("customers", "revoke-key"),
    ("customers", "rotate-key"),
    ("demo",),
    ("distribute",),
    ("erase",),
    ("holds", "place"),
    ("holds", "release"),
    ("import",),
    ("maintain",),
    ("migrate",),
    ("partitions", "drop"),
    ("partitions", "ensure"),
    ("prune",),
    ("recommendations", "approve"),
    ("recommendations", "reject"),
    ("retention", "remove"),
    ("retention", "set"),
    ("rollback",),
    ("seal",),
    ("seed",),
    ("workflows", "cancel"),
    ("workflows", "record"),
    ("workflows", "retry"),
}
ELSEWHERE = {("psql",), ("stop",)}
"""What becomes another program, and what takes no text."""


def parameters():
    for path, command in COMMANDS.items():
        if path not in ELSEWHERE:
            for parameter in command.params:
                if not getattr(parameter, "is_flag", False):
                    yield path, parameter


def words(path, parameter, text):
    """Return the command line with a text in place of what a parameter is given."""
    given = GIVEN.get(path, [])
    if parameter.opts[0].startswith("-"):
        return [*path, *given, f"{parameter.opts[0]}={text}"]
    place = [p.name for p in COMMANDS[path].params if not p.opts[0].startswith("-")].index(
        parameter.name
    )
    options = given[given.index("--customer") :] if "--customer" in given else []
    options += ["--yes"] if "--yes" in given else []
    arguments = [word for word in given if word not in options]
    return [*path, *options, "--", *arguments[:place], text, *arguments[place + 1 :]]


def run(monkeypatch, *args, url):
    """Run the command in this process; return its exit code and its output, messages included."""
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    monkeypatch.setattr(sys, "argv", ["optiinfra-db", *args])
    monkeypatch.setenv("OPTIINFRA_DATABASE_URL", url)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        out.flush()
        out.seek(0)
        return code, out.read()


def moves_the_cursor(output):
    """Return the characters that a terminal would not show, but for line breaks."""
    return {
        one for one in output if one != "\n" and unicodedata.category(one) in {"Cc", "Cf", "Cs"}
    }


@contextlib.contextmanager
def sample(template):
    with cloned_database(template) as url:
        with connect(url) as conn:
            seed(conn)
            conn.execute("CREATE TABLE canary AS SELECT 'alive' AS state")
        yield url


@pytest.fixture(scope="module")
def samples(migrated_template):
    """Make databases to read and to write; of the former nothing may change."""
    with sample(migrated_template) as to_read, sample(migrated_template) as to_write:
        with connect(to_read) as conn:
            before = contents(conn)
            yield to_read, to_write
            assert contents(conn) == before
        with connect(to_write) as conn:
            assert conn.execute("TABLE canary").fetchall() == [("alive",)]


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("runs.json").write_text('{"workflow_type": "cost_analysis", "status": "pending"}')
    monkeypatch.setenv("OPTIINFRA_DATA_DIR", "/nonexistent/optiinfra")
    monkeypatch.setenv("NO_COLOR", "1")


@pytest.mark.parametrize(
    ("path", "parameter", "texts"),
    [
        (path, parameter, TEXTS[number % EVERY :: EVERY])
        for number, (path, parameter) in enumerate(parameters())
    ],
    ids=lambda each: " ".join(each) if isinstance(each, tuple) else getattr(each, "name", ""),
)
def test_hostile_texts_do_no_harm(path, parameter, texts, samples, monkeypatch):
    problems = {}
    for text in texts:
        url = samples[path in WRITES]
        try:
            code, output = run(monkeypatch, *words(path, parameter, text), url=url)
        except Exception as error:
            problems[text] = f"raised {error!r:.200}"
            continue
        is_page = parameter.name == "html" and text == "-"
        if code not in EXIT_CODES or "Traceback" in output:
            problems[text] = f"exit code {code}: {output:.200}"
        elif (found := moves_the_cursor(output)) and not is_page:
            problems[text] = f"{found} in {output!r:.300}"
    assert problems == {}


@pytest.fixture(scope="module")
def hostile_rows_url(migrated_template):
    """Make a database in which every text that a command shows is hostile."""
    with cloned_database(migrated_template) as url:
        with connect(url, actor="\x1b[31mactor\x07") as conn:
            for number, text in enumerate(TEXTS):
                is_storable = text == text.encode(errors="replace").decode()
                if is_storable and not text.isprintable():
                    write_rows(conn, number, text)
        yield url


def write_rows(conn, number, text):
    customer = customers.create_customer(
        conn, name=text, email=f"{number}@b.example", api_key_hash=number.to_bytes(32)
    )
    agent = agents.upsert_agent(
        conn, type=AgentType.COST, name=text, version=text, endpoint=text, metadata={text: text}
    )
    of_both = {"customer_id": customer.id, "agent_id": agent.id}
    run = workflow_executions.create_workflow_execution(
        conn,
        **of_both,
        workflow_type=WorkflowType.COST_ANALYSIS,
        step_names=[text],
        input_data={text: text},
        metadata={text: text},
    )
    key = {"customer_id": customer.id, "id": run.id}
    workflow_artifacts.register_workflow_artifact(
        conn,
        customer_id=customer.id,
        workflow_execution_id=run.id,
        artifact_type=ArtifactType.REPORT,
        artifact_name=text,
        artifact_path=f"/nonexistent/{text}",
        artifact_size_bytes=1,
        content_type=text,
        sha256=bytes(32),
    )
    workflow_executions.start_workflow_execution(conn, **key)
    workflow_executions.fail_workflow_execution(
        conn, **key, attempt=1, error_details={"type": text, "message": text, text: text}
    )
    recommendations.create_recommendation(
        conn, **of_both, type=text, title=text, description=text, workflow_execution_id=run.id
    )
    events.create_event(conn, customer_id=customer.id, event_type=text, data={text: text})
    agent_metrics.create_agent_metric(
        conn, agent_id=agent.id, metric_name=text, metric_value=1.0, tags={text: text}
    )


READS = ["customers list", "agents list", "workflows list", "recommendations list", "savings"]
READS += ["report", "feed", "doctor", "artifacts list --customer={customer}"]
READS += ["artifacts verify --customer={customer}", "artifacts verify {run}"]
READS += ["artifacts list {run}", "workflows show {run}", "recommendations trace {recommendation}"]
READS += ["metrics list {agent}", "agents stale --silent-for=1s", "workflows diff {run} {other}"]
READS += ["customers list --json", "feed --json", "workflows show {run} --json", "report --json"]
READS += [
    "artifacts orphans . --older-than=0s --customer={customer}",
    "metrics plot {agent} {name}",
]
READS += ["customers keys {customer}", "verify-audit"]
READS += ["holds list", "receipts", "partitions list", "retention list"]
READS += ["export {customer} exported-{run}"]
READS += ["audit-bundle --customer={customer} -o bundle.jsonl", "audit-bundle --run={run} -o b.gz"]
READS += ["workflows list --agent={name}", "metrics plot --json -- {agent} {name}"]


@pytest.mark.parametrize("line", READS)
def test_hostile_rows_are_shown_and_not_obeyed(line, hostile_rows_url, monkeypatch):
    with connect(hostile_rows_url) as conn:
        rows = conn.execute(
            "SELECT w.id, w.customer_id, r.id, w.agent_id, a.name, lag(w.id, 1, w.id) OVER () "
            "FROM workflow_executions AS w "
            "JOIN recommendations AS r ON r.workflow_execution_id = w.id "
            "JOIN agents AS a ON a.id = w.agent_id"
        ).fetchall()
    names = ("run", "customer", "recommendation", "agent", "name", "other")
    for row in rows if "{" in line else rows[:1]:
        values = dict(zip(names, map(str, row), strict=True))
        Path(values["customer"]).mkdir(exist_ok=True)
        Path(values["customer"], "\x1b]0;title\x07").touch()  # for artifacts orphans to find
        args = [word.format(**values) for word in line.split(" ")]
        code, output = run(monkeypatch, *args, url=hostile_rows_url)
        assert code in {0, 2, 6}, output
        found = moves_the_cursor(output)
        if "--json" in line:  # it is for programs, and escapes what JSON demands
            found = {one for one in found if one < " "}
            for document in output.strip().split("\n") if line.startswith("feed") else [output]:
                json.loads(document)
        assert not found, output


@pytest.mark.parametrize("path", COMMANDS.keys() - ELSEWHERE, ids=" ".join)
def test_what_a_url_hides_is_not_obeyed(path, monkeypatch):
    url = "postgresql://%1b[31m:secret@127.0.0.1:1/%07%c2%9b%e2%80%ae"
    code, output = run(monkeypatch, *path, *GIVEN.get(path, []), url=url)
    assert code in {3, 4}, output
    assert not moves_the_cursor(output)
    assert "secret" not in output


def test_each_of_the_texts_is_tried_on_some_parameter():
    count = sum(1 for _ in parameters())
    assert count >= EVERY
    assert {text for n in range(count) for text in TEXTS[n % EVERY :: EVERY]} == set(TEXTS)
