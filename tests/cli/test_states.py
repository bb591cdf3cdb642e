"""Every command that reads: on a database that is down, empty, full of samples, and large."""

import json
import os
import pty
import select
import subprocess

import pytest

from optiinfra_db import connect
from optiinfra_db.generated import customers
from optiinfra_db.seed import ATLAS, COST

from .command import COMMAND, MISSING_URL, run

RUN = "01941f29-7c00-7000-8000-000000000021"
RECOMMENDATION = "01941f29-7c00-7000-8000-000000000031"
# What needs nothing to be there.
LISTS = [
    ["workflows", "list"],
    ["workflows", "list", "--status", "failed"],
    ["agents", "list"],
    ["agents", "stale", "--silent-for", "52w"],
    ["recommendations", "list"],
    ["customers", "list"],
    ["savings"],
    ["feed", "-n", "50"],
    ["report", "--html", "-"],
    ["doctor", "--days", "0"],
    ["verify-audit"],
    ["retention", "list"],
    ["holds", "list"],
    ["receipts"],
    ["partitions", "list"],
    ["status"],
]
# What needs a row of the sample data.
LOOKS = [
    ["workflows", "show", RUN],
    ["workflows", "show", RUN, "--html", "-"],
    ["workflows", "diff", RUN, "01941f29-7c00-7000-8000-000000000023"],
    ["recommendations", "trace", RECOMMENDATION],
    ["artifacts", "list", RUN],
    ["artifacts", "list", "--customer", "atlas"],
    ["metrics", "list", str(COST)],
    ["customers", "keys", "atlas"],
    ["metrics", "plot", str(COST), "monthly_cost_usd"],
]
WITHOUT_JSON = {"--html"}


def as_json(args):
    if "--html" in args:
        at = args.index("--html")
        return [*args[:at], *args[at + 2 :], "--json"]
    return [*args, "--json"]


def in_terminal(*args, url, columns=80):
    """Run the command in a terminal; return what it printed there, and its exit code."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [COMMAND, *args],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "OPTIINFRA_DATABASE_URL": url, "COLUMNS": str(columns), "TERM": "xterm"},
    )
    os.close(theirs)
    told = b""
    while True:
        ready, _, _ = select.select([ours], [], [], 60)
        assert ready, told
        try:
            part = os.read(ours, 2**16)
        except OSError:  # the other end was closed
            part = b""
        if not part:
            break
        told += part
    os.close(ours)
    return told.decode(), process.wait(timeout=60)


@pytest.mark.parametrize("args", [*LISTS, *LOOKS], ids=" ".join)
def test_without_a_server_it_is_one_message_and_exit_code_3(args):
    result = run(*args, url=MISSING_URL)
    assert (result.returncode, result.stdout) == (3, "")
    assert result.stderr.startswith("Error: Cannot connect to PostgreSQL at host 127.0.0.1, port 1")


@pytest.mark.parametrize("args", [*LISTS[:-2], *LOOKS], ids=" ".join)
def test_before_migrating_it_says_to_migrate(args, empty_database_url):
    result = run(*args, url=empty_database_url)
    assert result.returncode == 4
    assert "optiinfra-db migrate" in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize("args", LISTS, ids=" ".join)
def test_without_rows_it_says_so_and_json_is_still_json(args, shared_database_url):
    result = run(*args, url=shared_database_url)
    assert result.returncode == 0, result.stderr
    assert result.stdout or result.stderr
    if args[0] != "feed":
        json.loads(run(*as_json(args), url=shared_database_url).stdout)


@pytest.mark.parametrize("args", LOOKS, ids=" ".join)
def test_what_is_not_there_is_said_with_how_to_find_it(args, shared_database_url):
    result = run(*args, url=shared_database_url)
    assert (result.returncode, result.stdout) == (2, "")
    assert "There is no " in result.stderr
    assert "List them with: optiinfra-db " in result.stderr


@pytest.mark.parametrize("args", [*LISTS, *LOOKS], ids=" ".join)
def test_with_sample_data_it_prints_plain_text_and_json(args, sample_url):
    result = run(*args, url=sample_url)
    assert result.returncode == 0, result.stderr
    assert "\x1b" not in result.stdout
    assert not any(line.endswith(" ") for line in result.stdout.splitlines() if "<" not in line)
    lines = run(*as_json(args), url=sample_url).stdout
    for document in lines.splitlines() if args[0] == "feed" else [lines]:
        json.loads(document)


@pytest.mark.parametrize(
    "args", [args for args in [*LISTS, *LOOKS] if "--html" not in args], ids=" ".join
)
def test_in_a_terminal_of_80_columns_nothing_is_wider(args, sample_url):
    told, exit_code = in_terminal(*args, url=sample_url)
    assert exit_code == 0, told
    from rich.text import Text

    for painted in told.replace("\r", "").splitlines():
        line = painted.rpartition("\x1b[2K")[2]  # after what a spinner wiped
        if args[0] != "feed" and "optiinfra-db " not in line:  # those fold by themselves
            assert Text.from_ansi(line).cell_len <= 80, line


@pytest.mark.parametrize("args", LISTS, ids=" ".join)
def test_on_a_long_history_it_answers(args, history_url):
    result = run(*args, url=history_url)
    assert result.returncode == 0, result.stderr
    if args[0] in {"workflows", "recommendations"}:
        assert len(result.stdout.splitlines()) == 21  # with the header


def test_a_run_of_a_long_history_is_found_by_the_beginning_of_its_id(history_url):
    listed = json.loads(run("workflows", "list", "-n", "2", "--json", url=history_url).stdout)
    abbreviated = (
        run("workflows", "list", "-n", "2", url=history_url).stdout.splitlines()[1].split()[0]
    )
    shown = run("workflows", "show", abbreviated, "--json", url=history_url)
    assert json.loads(shown.stdout)["id"] == listed[0]["id"], shown.stderr


@pytest.mark.parametrize("args", [["workflows", "watch"], ["agents", "watch"]], ids=" ".join)
def test_what_is_for_a_terminal_says_what_to_do_without_one(args, sample_url):
    result = run(*args, url=sample_url)
    assert result.returncode == 4
    assert "--json" in result.stderr


def test_colour_is_for_terminals_that_want_it(sample_url, monkeypatch):
    told, _ = in_terminal("workflows", "list", url=sample_url)
    assert "\x1b[31mfailed" in told
    monkeypatch.setenv("NO_COLOR", "1")
    told, _ = in_terminal("workflows", "list", url=sample_url)
    assert "\x1b[31m" not in told


def test_following_the_feed_ends_with_ctrl_c(own_url):
    import signal

    process = subprocess.Popen(
        [COMMAND, "feed", "--follow", "--json", "--interval", "0.1", "--url", own_url],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stdout is not None
    assert "Ctrl-C" in process.stderr.readline()
    with connect(own_url, actor="somebody") as conn:
        from optiinfra_db.generated import events

        events.create_event(conn, customer_id=ATLAS, event_type="test.seen")
    event = json.loads(process.stdout.readline())
    assert (event["event_type"], event["actor"]) == ("test.seen", "somebody")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out, "Traceback" in err) == (130, "", False)
    after = run("feed", "--after", event["cursor"], "--json", url=own_url)
    assert (after.returncode, after.stdout) == (0, "")


def test_a_reader_that_has_enough_ends_it_with_141(history_url):
    shell = f"'{COMMAND}' feed --url '{history_url}' | head -1; echo ${{PIPESTATUS[@]}}"
    result = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=True)
    event, codes = result.stdout.splitlines()
    assert event
    assert (codes, result.stderr) == ("141 0", "")


def test_hostile_names_are_shown_as_they_are(database_url):
    name = "[red]Evil[/red] \x1b]0;title\x07 Corp\nInc"
    with connect(database_url) as conn:
        customers.create_customer(conn, name=name, email="a@b.example", api_key_hash=bytes(32))
    result = run("customers", "list", url=database_url)
    assert "[red]Evil[/red]" in result.stdout
    assert "\x1b" not in result.stdout
    assert len(result.stdout.splitlines()) == 2
    told, _ = in_terminal("customers", "list", url=database_url, columns=200)
    assert "\x1b]0;" not in told
