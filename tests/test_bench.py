"""The benchmarks work, on sizes that tell nothing of speed; the docs show their newest results."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from .conftest import EMBEDDED_VERSION

ROOT = Path(__file__).parents[1]
RESULTS = sorted((ROOT / "bench" / "results").glob("*.json"))

sys.path.insert(0, str(ROOT))
from bench import __main__ as main  # noqa: E402
from bench import report  # noqa: E402
from bench.goals import GOALS, standings  # noqa: E402
from bench.results import Results  # noqa: E402


def bench(*arguments, cwd=ROOT):
    return subprocess.run(
        [sys.executable, "-m", "bench", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory, pytestconfig):
    """Measure everything, a little."""
    if pytestconfig.getoption("--pg") != EMBEDDED_VERSION:
        pytest.skip("the bench starts the embedded PostgreSQL")
    path = tmp_path_factory.mktemp("bench") / "tiny.json"
    made = bench("--scale", "tiny", "--output", str(path))
    assert made.returncode == 0, made.stderr
    return Results.load(path), made


def test_every_goal_has_figures(tiny):
    results, _ = tiny
    assert {standing.goal for standing in standings(results)} == set(GOALS)


def test_every_case_has_a_sample_of_each_round(tiny):
    results, _ = tiny
    for name, comparison in results.comparisons.items():
        assert comparison.samples, name
        for case, samples in comparison.samples.items():
            assert samples, f"{name}, {case}"
            assert all(sample >= 0 for sample in samples), f"{name}, {case}: {samples}"


def test_the_circumstances_are_kept(tiny):
    results, _ = tiny
    assert results.about["settings"]["fsync"] == "on"
    assert results.about["settings"]["synchronous_commit"] == "on"
    assert results.about["versions"]["psycopg"]
    assert len(results.about["commit"]) == 40


def test_people_are_shown_each_goal_and_comparison(tiny):
    results, made = tiny
    for title in report.PLOTTED:
        assert title in made.stdout
    assert "met" in made.stdout
    assert "missed" in made.stdout or all(s.is_met for s in standings(results))
    assert "Measuring: size" in made.stderr


def test_the_plot_is_the_same_for_the_same_results(tiny, tmp_path):
    results, _ = tiny
    for name in ("one.svg", "two.svg"):
        report.plot(results, tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_results_survive_their_file(tiny, tmp_path):
    results, _ = tiny
    results.save(tmp_path / "again.json")
    assert Results.load(tmp_path / "again.json") == results


def test_a_part_can_be_measured(tmp_path):
    made = bench("startup", "--scale", "tiny", "--output", str(tmp_path / "part.json"))
    assert made.returncode == 0, made.stderr
    assert "optiinfra_db.generated" in made.stdout
    assert set(json.loads((tmp_path / "part.json").read_text())["comparisons"]) == {
        "start-up",
        "memory",
    }


def test_results_of_uncommitted_code_are_not_published(tiny, tmp_path, monkeypatch, capsys):
    results, _ = tiny
    monkeypatch.chdir(tmp_path)
    before = main.PAGE.read_text()
    dirty = dataclasses.replace(results, about=results.about | {"is_clean": False})

    assert main._publish(dirty) == 1

    assert main.PAGE.read_text() == before
    assert "uncommitted changes" in capsys.readouterr().err
    assert Results.load(tmp_path / f"bench-{results.about['date']}.json") == dirty


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_bench_that_is_interrupted_shows_what_it_has_and_leaves_no_server(number):
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        process = subprocess.Popen(
            [sys.executable, "-m", "bench", "--scale", "tiny", "startup", "call"],
            cwd=ROOT,
            env=os.environ | {"TMPDIR": folder},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr
        for line in process.stderr:
            if "Measuring: call" in line:
                break
        process.send_signal(number)
        shown, said = process.communicate(timeout=60)
        assert process.returncode == 130, said
        assert "Interrupted" in said
        assert "optiinfra_db.generated" in shown
        assert not list(Path(folder).iterdir())


def test_what_is_unknown_is_refused():
    made = bench("nothing")
    assert made.returncode == 2
    assert "there is no section nothing" in made.stderr
    assert bench("--rows", "0").returncode == 2


def test_the_docs_show_the_newest_results():
    assert RESULTS, "bench/results is empty"
    newest = Results.load(RESULTS[-1])
    assert newest.about["scale"]["name"] == "full"
    page = (ROOT / "docs" / "performance.md").read_text()
    assert report.markdown(newest) in page


@pytest.mark.parametrize("path", RESULTS, ids=lambda path: path.stem)
def test_committed_results_are_those_of_committed_code(path):
    assert Results.load(path).about["is_clean"], "measured with uncommitted changes"
