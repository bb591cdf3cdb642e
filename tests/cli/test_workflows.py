import json
import os
import pty
import subprocess

import pytest

from optiinfra_db import connect
from optiinfra_db.generated import events, workflow_executions
from optiinfra_db.generated.models import WorkflowStatus, WorkflowType
from optiinfra_db.seed import ATLAS, COST, INDIE
from optiinfra_db.workflows import record_workflow

from .command import COMMAND, read_json, run

COMPLETED = "01941f29-7c00-7000-8000-000000000021"
RUNNING = "01941f29-7c00-7000-8000-000000000022"
FAILED = "01941f29-7c00-7000-8000-000000000023"


def status_of(url, id):
    return read_json("workflows", "show", id, url=url)["status"]


def test_list_filters(sample_url):
    def ids(*args):
        return [one["id"] for one in read_json("workflows", "list", *args, url=sample_url)]

    assert ids() == [FAILED, RUNNING, COMPLETED]
    assert ids("--limit", "1") == [FAILED]
    assert ids("--status", "running") == [RUNNING]
    assert ids("--type", "cost_analysis") == [COMPLETED]
    assert ids("--agent", "performance-1") == ids("--agent", "PERF") == [RUNNING]
    for customer in ("Atlas Bank", "atlas", "ml-infra@atlas.example", str(ATLAS)):
        assert ids("--customer", customer) == [COMPLETED]
    assert ids("--customer", "indie", "--status", "completed") == []


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["list", "--customer", "nobody"], "There is no customer 'nobody'"),
        (["list", "--agent", "nobody"], "There is no agent 'nobody'"),
        (["list", "--customer", "01941f29"], "stands for more than one customer"),
        (["list", "--status", "broken"], "'broken' is not one of"),
        (["list", "--limit", "0"], "--limit"),
        (["show", "01941f29-7c00"], "stands for more than one run"),
        (["show", "nonsense"], "There is no run 'nonsense'"),
        (["show", COMPLETED + "0"], "There is no run"),
        (["show", COMPLETED, "--customer", "indie"], "There is no run"),
        (["cancel", "ffffffff"], "There is no run 'ffffffff'"),
    ],
)
def test_what_cannot_be_found_is_said_in_one_message(sample_url, args, says):
    result = run("workflows", *args, url=sample_url)
    assert (result.returncode, result.stdout) == (2, "")
    assert says in result.stderr
    assert "Traceback" not in result.stderr


def test_an_id_may_be_abbreviated_with_or_without_dashes(own_url):
    with (
        connect(own_url) as conn,
        record_workflow(
            conn, customer_id=ATLAS, agent_id=COST, workflow_type=WorkflowType.HEALTH_CHECK
        ) as made,
    ):
        pass
    for text in (str(made.id)[:13], str(made.id).replace("-", "")[:20], str(made.id).upper()):
        assert read_json("workflows", "show", text, url=own_url)["id"] == str(made.id)


def test_show_tells_what_went_wrong_and_what_to_do(sample_url):
    told = run("workflows", "show", FAILED, url=sample_url).stdout
    for text in (
        "quality_check  failed  2/3 steps",
        "Indie Robotics",
        "Failed: step 3 compare_to_threshold",
        "QualityThresholdBreached: answer quality 0.78 is below the threshold of 0.85",
        '"threshold": 0.85',
        "quality-alert.json",
        f"optiinfra-db workflows retry {FAILED}",
    ):
        assert text in told
    told = run("workflows", "show", COMPLETED, "--utc", url=sample_url).stdout
    assert "Release 4 idle GPUs" in told
    assert "optiinfra-db recommendations approve" in told
    assert " ago" not in told


def test_each_attempt_at_a_step_is_on_its_time_line(own_url):
    from optiinfra_db.workflows import step, workflow

    tried = []

    @step(retries=2, backoff_seconds=0.05, retry_on=OSError)
    def fetch():
        tried.append(1)
        if len(tried) < 3:
            raise OSError("try again")

    @workflow(WorkflowType.HEALTH_CHECK, steps=[fetch, "report"])
    def check(run):
        fetch()

    with connect(own_url) as conn:
        check(conn, customer_id=ATLAS, agent_id=COST)
    (made,) = read_json("workflows", "list", "--type", "health_check", url=own_url)
    assert made["retries"] == 2
    first, _ = read_json("workflows", "show", made["id"], url=own_url)["steps"]
    spans = [(span["kind"], span["attempt"], span["status"]) for span in first["spans"]]
    ran = [span for span in spans if span[0] == "running"]
    assert ran == [
        ("running", 1, "retrying"),
        ("running", 2, "retrying"),
        ("running", 3, "completed"),
    ]
    assert [span["error"] for span in first["spans"] if span["error"]] == ["try again"] * 2
    assert spans.count(("waiting", 2, None)) == spans.count(("waiting", 3, None)) == 1
    assert "3/4" in run("workflows", "show", made["id"], url=own_url).stdout


def test_retry_makes_a_run_that_waits_and_is_found_from_the_first(own_url):
    result = run("workflows", "retry", FAILED, "--by", "ops", url=own_url)
    assert result.returncode == 0, result.stderr
    made = result.stdout.strip()
    shown = read_json("workflows", "show", made, url=own_url)
    assert (shown["status"], shown["attempt"], shown["retried_from_id"]) == ("pending", 2, FAILED)
    assert [step["status"] for step in shown["steps"]] == ["skipped", "skipped", "pending"]
    assert run("workflows", "retry", FAILED, url=own_url).stdout.strip() == made
    told = run("workflows", "show", FAILED, url=own_url).stdout
    assert f"optiinfra-db workflows diff {FAILED} {made}" in told
    with connect(own_url) as conn:
        (event,) = events.list_events_by_subject(
            conn, customer_id=INDIE, subject_id=shown["id"], max_rows=9
        )
    assert event.actor == "ops"


def test_retry_from_a_step_does_that_one_again(own_url):
    made = run("workflows", "retry", FAILED, "--from-step", "2", url=own_url).stdout.strip()
    steps = read_json("workflows", "show", made, url=own_url)["steps"]
    assert [step["status"] for step in steps] == ["skipped", "pending", "pending"]
    assert run("workflows", "retry", FAILED, "--from-step", "0", url=own_url).returncode == 2


def test_cancel_ends_a_run_with_its_reason(own_url):
    result = run("workflows", "cancel", RUNNING, "--reason", "too slow", "--by", "ops", url=own_url)
    assert (result.returncode, result.stdout) == (0, f"cancelled {RUNNING}\n")
    shown = read_json("workflows", "show", RUNNING, url=own_url)
    assert shown["status"] == "cancelled"
    assert "too slow" in json.dumps(shown["timeline"]) + json.dumps(shown["metadata"])
    assert {entry["actor"] for entry in shown["timeline"][-1:]} == {"ops"}


@pytest.mark.parametrize(
    ("command", "id", "says"),
    [
        ("cancel", COMPLETED, "is over: it is completed"),
        ("retry", COMPLETED, "is completed: only one that failed"),
        ("retry", RUNNING, "is running: only one that failed"),
    ],
)
def test_what_cannot_be_done_is_refused_and_changes_nothing(own_url, command, id, says):
    before = status_of(own_url, id)
    result = run("workflows", command, id, url=own_url)
    assert (result.returncode, result.stdout) == (4, "")
    assert says in result.stderr
    assert status_of(own_url, id) == before


@pytest.mark.parametrize(("answer", "status"), [("n", "running"), ("y", "cancelled")])
def test_cancel_asks_in_a_terminal(own_url, answer, status):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, "workflows", "cancel", RUNNING, "--url", own_url],
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(ours, f"{answer}\n".encode())
    _, err = process.communicate(timeout=20)
    os.close(ours)
    os.close(theirs)
    assert f"Cancel run {RUNNING}?" in err
    assert status_of(own_url, RUNNING) == status


RECORD = {
    "id": "0193a000-0000-7000-8000-000000000001",
    "workflow_type": "health_check",
    "status": "completed",
    "started_at": "2026-11-01T08:00:00Z",
    "completed_at": "2026-11-01T08:05:00Z",
    "steps": [
        {
            "step_name": "probe",
            "step_order": 1,
            "status": "completed",
            "started_at": "2026-11-01T08:00:00Z",
            "completed_at": "2026-11-01T08:04:00Z",
        }
    ],
}


def record(url, file, **kwargs):
    return run(
        "workflows", "record", file, "--customer", "atlas", "--agent", "cost-1", url=url, **kwargs
    )


def test_record_takes_a_run_or_many_and_may_be_repeated(own_url, tmp_path):
    file = tmp_path / "runs.json"
    file.write_text(json.dumps(RECORD))
    assert record(own_url, file).stdout == f"recorded {RECORD['id']}\n"
    assert record(own_url, file).stdout == f"was there {RECORD['id']}\n"
    many = [{**RECORD, "id": f"0193a000-0000-7000-8000-{n:012}"} for n in range(1, 451)]
    result = record(own_url, "-", input=json.dumps(many))
    assert result.returncode == 0, result.stderr
    assert len(result.stdout.splitlines()) == 450
    assert result.stdout.startswith("was there")
    with connect(own_url) as conn:
        rows = workflow_executions.list_workflow_executions_by_status(
            conn, customer_id=ATLAS, status=WorkflowStatus.COMPLETED, max_rows=999
        )
    assert len(rows) == 451


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("not json", "is no JSON"),
        ('{"workflow_type": "health_check"}', "status"),
        (json.dumps({**RECORD, "status": "failed"}), "error_details"),
        (json.dumps([RECORD, {**RECORD, "id": "x"}]), "id"),
        (json.dumps({**RECORD, "metadata": {"x": "\x00"}}), "metadata"),
        (json.dumps({**RECORD, "started_at": "2026-11-01T08:00:00"}), "started_at"),
        ('{"a": ' * 100_000, "is no JSON"),
    ],
)
def test_a_wrong_record_is_told_by_field_and_nothing_is_written(own_url, tmp_path, content, says):
    file = tmp_path / "runs.json"
    file.write_text(content)
    result = record(own_url, file)
    assert (result.returncode, result.stdout) == (2, "")
    assert str(file) in result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
    assert len(read_json("workflows", "list", url=own_url)) == 3


def test_a_file_that_is_not_there_is_one_message(own_url):
    result = record(own_url, "/nonexistent.json")
    assert (result.returncode, result.stderr) == (
        1,
        "Error: /nonexistent.json: No such file or directory\n",
    )


def test_diff_shows_what_a_retry_did_otherwise(own_url):
    made = run("workflows", "retry", FAILED, url=own_url).stdout.strip()
    found = read_json("workflows", "diff", FAILED, made, url=own_url)
    assert {one["step_name"]: (one["a_status"], one["b_status"]) for one in found["steps"]} == {
        "sample_responses": ("completed", "skipped"),
        "score_quality": ("completed", "skipped"),
        "compare_to_threshold": ("failed", "pending"),
    }
    differences = {one["path"]: (one["a"], one["b"]) for one in found["differences"]}
    assert differences["status"] == ("failed", "pending")
    assert differences["error.type"] == ("QualityThresholdBreached", None)
    assert not any(path.startswith("input_data") for path in differences)
    same = run("workflows", "diff", FAILED, FAILED, url=own_url)
    assert "they do not differ" in same.stderr
