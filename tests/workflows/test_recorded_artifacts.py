"""What a run leaves behind: content first, its row second, and neither without the other."""

import hashlib
import subprocess
import sys
import textwrap
from datetime import timedelta
from io import BytesIO
from pathlib import Path

import pytest

from optiinfra_db.artifacts import ArtifactProblem, find_orphans, verify_artifacts
from optiinfra_db.errors import ArtifactStoreError, InvalidValue
from optiinfra_db.generated import workflow_artifacts
from optiinfra_db.generated.models import ArtifactType, WorkflowStatus, WorkflowType

REPORT = ArtifactType.REPORT


def plan(made, *steps, **more):
    return {
        **made.of,
        "workflow_type": WorkflowType.COST_ANALYSIS,
        "steps": list(steps),
        **more,
    }


def artifacts(made, run_id):
    return workflow_artifacts.list_workflow_artifacts(
        made.conn, customer_id=made.customer_id, workflow_execution_id=run_id
    )


async def test_content_is_stored_and_noted_with_size_and_digest(rec, made, tmp_path):
    source = tmp_path / "source.csv"
    source.write_bytes(b"a,b\n")
    async with rec.record_workflow(**plan(made, "a"), store=tmp_path / "store") as run:
        async with run.step("a") as step:
            chart = await run.artifact(
                ArtifactType.CHART, "c.svg", data=b"<svg/>", step=step, metadata={"width": 7}
            )
        await run.artifact(ArtifactType.METRICS, "m.csv", file=source)
        await run.artifact(REPORT, "r", file=BytesIO(b"# R"), content_type="text/markdown")

    found = artifacts(made, run.id)
    assert [(row.artifact_name, row.content_type, row.workflow_step_id) for row in found] == [
        ("c.svg", "image/svg+xml", step.id),
        ("m.csv", "text/csv", None),
        ("r", "text/markdown", None),
    ]
    assert found[0] == chart
    assert chart.metadata == {"width": 7}
    for row, content in zip(found, (b"<svg/>", b"a,b\n", b"# R"), strict=True):
        assert Path(row.artifact_path).read_bytes() == content
        assert row.artifact_size_bytes == len(content)
        assert row.sha256 == hashlib.sha256(content).digest()
    key = {"customer_id": made.customer_id, "workflow_execution_id": run.id}
    checks = verify_artifacts(made.conn, **key)
    assert [check.problem for check in checks] == [None] * 3
    Path(chart.artifact_path).write_bytes(b"<SVG/>")
    checks = verify_artifacts(made.conn, **key)
    assert checks[0].problem is ArtifactProblem.WRONG_DIGEST


async def test_the_store_may_be_configured(rec, made, tmp_path, monkeypatch):
    monkeypatch.setenv("OPTIINFRA_ARTIFACTS_URL", str(tmp_path))
    async with rec.record_workflow(**plan(made)) as run:
        row = await run.artifact(REPORT, "r.md", data=b"#")
    assert Path(row.artifact_path).is_relative_to(tmp_path)

    monkeypatch.delenv("OPTIINFRA_ARTIFACTS_URL")
    async with rec.record_workflow(**plan(made)) as run:
        with pytest.raises(ArtifactStoreError, match="OPTIINFRA_ARTIFACTS_URL"):
            await run.artifact(REPORT, "r.md", data=b"#")
    assert artifacts(made, run.id) == []


async def test_a_path_keeps_its_content(rec, made, tmp_path):
    path = str(tmp_path / "r.md")
    async with rec.record_workflow(**plan(made)) as run:
        first = await run.artifact(REPORT, "r.md", data=b"one", path=path)
        again = await run.artifact(REPORT, "r.md", data=b"one", path=path)
        with pytest.raises(ArtifactStoreError, match="other content of the run is"):
            await run.artifact(REPORT, "r.md", data=b"two", path=path)

    assert first == again
    assert artifacts(made, run.id) == [first]
    assert Path(path).read_bytes() == b"one"


async def test_the_same_name_twice_is_two_contents(rec, made, tmp_path):
    async with rec.record_workflow(**plan(made), store=tmp_path) as run:
        for data in (b"one", b"two", b"one"):
            await run.artifact(REPORT, "r.md", data=data)

    assert [Path(row.artifact_path).read_bytes() for row in artifacts(made, run.id)] == [
        b"one",
        b"two",
    ]


@pytest.mark.parametrize(
    ("wrong", "field"),
    [
        ({"name": "r" * 256}, "artifact_name"),
        ({"name": "a\0"}, "artifact_name"),
        ({"artifact_type": "poem"}, "artifact_type"),
        ({"content_type": ""}, "content_type"),
        ({"metadata": {"share": float("nan")}}, "metadata.share"),
    ],
)
async def test_what_is_wrong_is_refused_before_anything_is_written(
    rec, made, tmp_path, wrong, field
):
    described = {"artifact_type": REPORT, "name": "r", **wrong}
    async with rec.record_workflow(**plan(made), store=tmp_path) as run:
        with pytest.raises(InvalidValue) as raised:
            await run.artifact(**described, data=b"#")

    assert raised.value.field == field
    assert list(tmp_path.iterdir()) == []
    assert artifacts(made, run.id) == []


async def test_what_lost_its_row_is_found(rec, made, tmp_path):
    async with rec.record_workflow(**plan(made), store=tmp_path) as run:
        row = await run.artifact(REPORT, "r", data=b"#")
        await run.artifact(REPORT, "kept", data=b"#")
    workflow_artifacts.delete_workflow_artifact(
        made.conn, customer_id=made.customer_id, workflow_execution_id=run.id, id=row.id
    )

    orphans = find_orphans(
        made.conn, customer_id=made.customer_id, directory=tmp_path, older_than=timedelta(0)
    )
    assert (orphans.contents, orphans.rows) == ([row.artifact_path], [])


FULL = """
    import asyncio, resource, signal, sys
    from uuid import UUID
    from optiinfra_db import connect, connect_async
    from optiinfra_db.workflows import aio, record_workflow

    kind, url, store = sys.argv[1:4]
    made = {
        "customer_id": UUID(sys.argv[4]), "agent_id": UUID(sys.argv[5]), "store": store,
        "workflow_type": "cost_analysis", "steps": ["a", "b"],
    }
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill():
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    def sync():
        with connect(url) as conn, record_workflow(conn, **made) as run:
            with run.step("a") as step:
                run.artifact("report", "small", data=b"1", step=step)
                fill()
                run.artifact("report", "large", data=b"2" * 1_000_000, step=step)

    async def asynchronous():
        async with await connect_async(url) as conn, aio.record_workflow(conn, **made) as run:
            async with run.step("a") as step:
                await run.artifact("report", "small", data=b"1", step=step)
                fill()
                await run.artifact("report", "large", data=b"2" * 1_000_000, step=step)

    sync() if kind == "sync" else asyncio.run(asynchronous())
"""


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_full_store_fails_the_step_and_leaves_nothing_behind(made, tmp_path, kind):
    """Full for one process: no file of it may be larger than 100 kB."""
    arguments = [kind, made.url, str(tmp_path), str(made.customer_id), str(made.agent_id)]
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(FULL), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 1
    assert "ArtifactStoreError" in ended.stderr
    run = made.run()
    assert (run.status, run.error_details["type"]) == (WorkflowStatus.FAILED, "ArtifactStoreError")
    assert made.steps(run.id) == [("a", "failed"), ("b", "skipped")]
    (row,) = artifacts(made, run.id)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [Path(row.artifact_path)]
