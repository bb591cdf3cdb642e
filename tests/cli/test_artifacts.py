import pytest

from optiinfra_db import connect
from optiinfra_db.generated.models import ArtifactType, WorkflowType
from optiinfra_db.seed import ATLAS, COST
from optiinfra_db.workflows import record_workflow

from .command import read_json, run


@pytest.fixture
def stored(own_url, tmp_path):
    """Record a run with two artifacts in a folder; return its id and their paths."""
    with (
        connect(own_url) as conn,
        record_workflow(
            conn,
            customer_id=ATLAS,
            agent_id=COST,
            workflow_type=WorkflowType.HEALTH_CHECK,
            store=tmp_path,
        ) as made,
    ):
        paths = [
            made.artifact(ArtifactType.LOG, f"log {n}.txt", data=b"x" * n).artifact_path
            for n in (10, 20)
        ]
    return str(made.id), paths


def test_list_is_of_a_run_or_a_customer(own_url, stored):
    run_id, paths = stored
    listed = read_json("artifacts", "list", run_id, url=own_url)
    assert [one["artifact_path"] for one in listed] == paths
    assert [one["artifact_size_bytes"] for one in listed] == [10, 20]
    assert len(listed[0]["sha256"]) == 64
    logs = read_json("artifacts", "list", "-c", "atlas", "--type", "log", url=own_url)
    assert {one["artifact_path"] for one in logs} == set(paths)
    assert len(read_json("artifacts", "list", "-c", "atlas", "-n", "1", url=own_url)) == 1
    result = run("artifacts", "list", url=own_url)
    assert result.returncode == 2
    assert "name a run, or a customer" in result.stderr


def test_verify_finds_what_is_missing_and_what_was_changed(own_url, stored):
    from pathlib import Path

    run_id, (one, other) = stored
    result = run("artifacts", "verify", run_id, url=own_url)
    assert (result.returncode, result.stdout) == (0, "")
    assert "All 2 artifacts (30 bytes) are what their rows say." in result.stderr

    Path(one).unlink()
    Path(other).write_bytes(b"y" * 20)
    result = run("artifacts", "verify", run_id, url=own_url)
    assert result.returncode == 6
    first, second = result.stdout.splitlines()
    assert first.startswith("missing: ")
    assert one in first
    assert second.startswith("wrong_digest: ")
    checks = read_json("artifacts", "verify", run_id, url=own_url, exit_code=6)
    assert [check["problem"] for check in checks] == ["missing", "wrong_digest"]


def test_orphans_are_found_both_ways(own_url, stored, tmp_path):
    from pathlib import Path

    _, (one, other) = stored
    args = ("artifacts", "orphans", str(tmp_path), "--customer", "atlas")
    stray = Path(other).with_name("stray.txt")
    stray.write_text("x")
    Path(one).unlink()
    found = read_json(*args, "--older-than", "0s", url=own_url, exit_code=6)
    assert one in [row["artifact_path"] for row in found["rows"]]
    assert found["contents"] == [str(stray)]
    assert f"no row {stray}" in run(*args, "--older-than", "0s", url=own_url).stdout
    assert read_json(*args, url=own_url, exit_code=6)["contents"] == []  # it is too young
