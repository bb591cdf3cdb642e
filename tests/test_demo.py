"""The demo, run as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optiinfra_db import connect
from optiinfra_db.generated import workflow_artifacts, workflow_executions
from optiinfra_db.generated.models import ArtifactType, WorkflowStatus
from optiinfra_db.migrate import status
from optiinfra_db.seed import ATLAS


def demo(url, tmp_path, columns):
    command = [sys.executable, "-m", "optiinfra_db", "demo", "--artifacts-dir", tmp_path]
    environment = os.environ | {"OPTIINFRA_DATABASE_URL": url, "COLUMNS": str(columns)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "Traceback" not in result.stderr
    return result.stdout


@pytest.mark.parametrize("columns", [80, 200])
def test_the_demo_says_what_it_did_and_shows_board_detail_and_psql_command(
    empty_database_url, tmp_path, columns
):
    output = demo(empty_database_url, tmp_path, columns)

    assert f"{len(status(empty_database_url))} migrations were pending" in output
    assert "Wrote 59 rows" in output
    for shown in ("cost_analysis", "Atlas Bank", "performance-1", "failed", "2/4", "0.78"):
        assert shown in output
    for step in ("1 collect_metrics", "5 write_report", "recommendation.json", "report.md"):
        assert step in output
    psql = output.splitlines()[-1].strip()
    count = subprocess.check_output(
        f"{psql} -Atc 'SELECT count(*) FROM workflow_executions'", shell=True, text=True
    )
    assert count == "4\n"


def test_the_demo_again_adds_one_run_whose_artifacts_are_there(empty_database_url, tmp_path):
    demo(empty_database_url, tmp_path, 120)

    output = demo(empty_database_url, tmp_path, 120)

    assert "no migrations were pending" in output
    assert "Nothing to do: all 59 rows" in output
    with connect(empty_database_url) as conn:
        runs = workflow_executions.list_workflow_executions(conn, customer_id=ATLAS, max_rows=9)
        reports = workflow_artifacts.list_artifacts_by_type(
            conn, customer_id=ATLAS, artifact_type=ArtifactType.REPORT, max_rows=9
        )
    assert [run.status for run in runs] == [WorkflowStatus.COMPLETED] * 3
    *made, _ = reports
    assert [Path(report.artifact_path).stat().st_size for report in made] == [
        report.artifact_size_bytes for report in made
    ]
    assert len(made) == 2
