"""optiinfra-db seal, verify-audit, audit-bundle."""

import json
import subprocess
import sys

from optiinfra_db import connect
from optiinfra_db.generated import events
from optiinfra_db.seed import ATLAS, COST_RUN

from .command import run


def test_sealing_says_what_it_did_and_prints_the_heads(own_url, tmp_path):
    first = run("seal", url=own_url)
    assert (first.returncode, first.stdout) == (0, "")
    assert "Sealed 13 events of 3 customers, in 3 seals." in first.stderr
    again = run("seal", "--json", url=own_url)
    assert "Nothing to seal" in again.stderr
    heads = json.loads(again.stdout)
    assert [head["seal_number"] for head in heads] == [1, 1, 1]

    (tmp_path / "heads.json").write_text(again.stdout)
    found = run("verify-audit", "--heads", tmp_path / "heads.json", url=own_url)
    assert (found.returncode, found.stdout) == (0, "")
    assert "The events of 3 customers are as they were sealed." in found.stderr


def test_without_seals_there_is_nothing_to_compare(own_url):
    found = run("verify-audit", url=own_url)
    assert (found.returncode, found.stdout) == (0, "")
    assert "There are no seals. Make some: optiinfra-db seal" in found.stderr


def test_what_was_changed_is_named_and_ends_with_6(own_url):
    run("seal", url=own_url)
    with connect(own_url) as conn:
        conn.execute("SET session_replication_role = replica")
        conn.execute(f"UPDATE events SET actor = 'x' WHERE customer_id = '{ATLAS}'")
    found = run("verify-audit", "--customer", "atlas", url=own_url)
    assert found.returncode == 6
    assert f"customer {ATLAS}, seal 1: an event was changed: event " in found.stdout
    assert "find out who can have" in found.stderr
    assert run("verify-audit", "--customer", "nimbus", url=own_url).returncode == 0
    shown = run("verify-audit", "--json", url=own_url)
    assert shown.returncode == 6
    [deviation] = json.loads(shown.stdout)
    assert deviation["problem"] == "an event was changed"


def test_heads_that_are_none_are_refused(own_url, tmp_path):
    for name, content in (("missing", None), ("bad", b"{}"), ("binary", b"\xff")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        found = run("verify-audit", "--heads", tmp_path / name, url=own_url)
        assert found.returncode in {2, 4}, found.stderr
        assert "heads" in found.stderr


def test_a_bundle_is_written_and_says_how_to_verify_it(own_url, tmp_path):
    run("seal", url=own_url)
    for of in (["--customer", "atlas"], ["--run", str(COST_RUN)]):
        file = tmp_path / "b.jsonl.gz"
        made = run("audit-bundle", *of, "--output", file, url=own_url)
        assert (made.returncode, made.stdout) == (0, "")
        line = made.stderr.splitlines()[-1]
        command = line.removeprefix("Verify it: python ").split()
        done = subprocess.run([sys.executable, *command], capture_output=True, check=False)
        assert done.returncode == 0, done.stdout


def test_a_bundle_of_nothing_or_nowhere_is_refused(own_url, tmp_path):
    file = tmp_path / "b"
    assert run("audit-bundle", "--output", file, url=own_url).returncode == 2
    assert run("audit-bundle", "-c", "nobody", "--output", file, url=own_url).returncode == 2
    assert run("audit-bundle", "--run", "ffffffff", "-o", file, url=own_url).returncode == 2
    (tmp_path / "file").write_text("")
    under = tmp_path / "file" / "b"
    made = run("audit-bundle", "-c", "atlas", "--output", under, url=own_url)
    assert (made.returncode, "cannot be written" in made.stderr) == (4, True)
    assert not file.exists()


def test_who_may_not_seal_is_told_so(own_url):
    with connect(own_url) as conn:
        conn.execute("DROP ROLE IF EXISTS test_cli_service")
        conn.execute("CREATE ROLE test_cli_service LOGIN IN ROLE optiinfra_service")
        events.create_event(conn, customer_id=ATLAS, event_type="x")
        try:
            url = own_url.replace("//postgres@", "//test_cli_service@")
            done = run("seal", url=url)
            assert (done.returncode, "access_rules" in done.stderr) == (4, True)
        finally:
            conn.execute("DROP ROLE test_cli_service")
