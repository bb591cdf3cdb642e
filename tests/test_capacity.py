"""The capacity model does its arithmetic on what was measured, and the docs show what it says."""

import json
import re
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # bench/ is no part of the package

from bench import capacity  # noqa: E402
from bench.capacity import Load, Machine, Measured, Need  # noqa: E402

RUN = Measured(
    core_seconds=0.01,
    batch_core_seconds=0.001,
    wal_bytes=20_000,
    disk_bytes=10_000,
    event_bytes=6_000,
    pruned_rows_per_second=1_000,
)
SECOND = 86400 * 5
"""Steps a day that are a run of five steps a second on average."""


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "bench.capacity", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_figures_are_those_of_the_newest_results():
    newest = max((ROOT / "bench" / "results").glob("*.json"))
    found = json.loads(newest.read_text())

    def of(comparison, case):
        return median(found["comparisons"][comparison]["samples"][case])

    measured = Measured.of(capacity.newest())

    cores = found["about"]["machine"]["cores"]
    assert measured.core_seconds == pytest.approx(of("run, 8 connections", "pgbench") * cores)
    assert measured.batch_core_seconds == pytest.approx(of("import", "batch"))
    assert measured.wal_bytes == of("cost: a run, WAL", "all")
    assert measured.disk_bytes == of("cost: a run, on disk", "all")
    assert 0 < measured.event_bytes < measured.disk_bytes
    assert measured.pruned_rows_per_second == pytest.approx(of("prune", "rows"), rel=0.01)


def test_results_that_lack_a_figure_are_refused():
    empty = capacity.Results({"machine": {"cores": 2}}, {})
    with pytest.raises(ValueError, match="lack 'pgbench' of 'run, 8 connections'"):
        Measured.of(empty)


def test_a_load_that_one_server_carries():
    need = Need.of(Load(100 * SECOND, keep_days=10), RUN, Machine(cores=8, disk_bytes=4e12))

    assert need.steps_per_second == pytest.approx(1500)  # 100 runs a second, thrice at the peak
    assert need.cores == pytest.approx(3)
    assert need.batch_cores == pytest.approx(0.3)
    assert need.wal_bytes_per_second == pytest.approx(6e6)
    assert need.wal_bytes_per_day == pytest.approx(172.8e9)
    assert need.event_bytes == pytest.approx(2.12544e12)  # of 10 days and a month
    assert need.disk_bytes == pytest.approx(2.12544e12 + 345.6e9)
    assert need.prune_hours_per_day == pytest.approx(21.6)  # nine rows a run
    assert (need.servers, need.workers, need.machines) == (1, 0, 2)


def test_too_many_steps_a_second_need_more_servers_and_with_citus_more_of_them():
    need = Need.of(Load(1000 * SECOND, keep_days=1), RUN, Machine(cores=8, disk_bytes=9e15))

    assert need.servers == 8  # 30 cores, of which a server gives four
    # (10 + 5.4 + 5 x 15) / (1.7 + 1.6 + 5 x 1.6) ms
    assert capacity.citus_factor() == pytest.approx(90.4 / 11.3)
    assert need.citus_cores == pytest.approx(240)
    assert (need.workers, need.machines) == (60, 122)


def test_too_much_to_keep_needs_more_servers_or_larger_disks():
    load = Load(100 * SECOND, keep_days=100)
    small, large = (Machine(cores=1000, disk_bytes=size) for size in (1e12, 15e12))

    # 10.2 TB on disks of which 0.7 may be full
    assert (Need.of(load, RUN, small).servers, Need.of(load, RUN, small).workers) == (15, 15)
    assert Need.of(load, RUN, large).servers == 1


def test_payloads_come_on_top_on_the_disk_and_in_the_wal():
    plain, fat = (
        Need.of(Load(SECOND, 1, payload_bytes), RUN, Machine()) for payload_bytes in (0, 2000)
    )
    assert fat.disk_bytes - plain.disk_bytes == pytest.approx(86400 * 10_000)
    assert fat.wal_bytes_per_day == pytest.approx(1.5 * plain.wal_bytes_per_day)
    assert fat.event_bytes == plain.event_bytes


def test_the_docs_say_what_the_model_assumes():
    page = " ".join(capacity.PAGE.read_text().split())
    assert f"{capacity.BUSY * 100:g} % of its cores" in page
    assert f"taken as {capacity.PEAK} times the average" in page
    assert f"full to {capacity.FULL * 100:g} %" in page
    assert f"{capacity.MONTH} days longer" in page
    for call, one in capacity.ONE_SERVER.items():
        assert f"{call} {one:g} and {capacity.OWNING_WORKER[call]:g} ms" in page
    assert f"{capacity.citus_factor():.0f} times" in page


def test_the_docs_show_the_tables_of_the_newest_results():
    tables = capacity.markdown(capacity.newest(), capacity.shown(), Machine())
    assert f"{capacity.report.BEGIN}\n{tables}{capacity.report.END}" in capacity.PAGE.read_text(), (
        "run python -m bench.capacity --publish"
    )


def test_the_command_prints_what_the_docs_show():
    made = run()
    assert made.returncode == 0, made.stderr
    assert made.stdout.strip() in capacity.PAGE.read_text()


def test_the_command_in_the_docs_takes_a_load_and_a_machine():
    (options,) = re.findall(r"^python -m bench.capacity (.*)$", capacity.PAGE.read_text(), re.M)
    made = run(*options.split())
    assert made.returncode == 0, made.stderr
    assert "250 M, 30 days | 250 M, 60 days" in made.stdout
    assert "servers of 64 cores, 30 TB" in made.stdout


@pytest.mark.parametrize("amount", ["0", "-1", "nan", "inf", "1e16", "many"])
def test_what_is_no_amount_is_refused(amount):
    made = run(f"--steps-per-day={amount}")
    assert made.returncode == 2
    assert f"'{amount}' is not a number above 0, up to 1e+15" in made.stderr
