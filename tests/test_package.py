"""What is built can be installed and works without the checkout."""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    """Build the sdist, and the wheel from it, as `make build` does."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def files_under(folder):
    paths = (ROOT / folder).rglob("*")
    return {
        str(path.relative_to(ROOT))
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_the_sdist_has_the_sources(dist):
    (path,) = dist.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    for folder in ("schema", "queries", "codegen", "generated", "tests"):
        assert files_under(folder) <= names, folder


def test_the_wheel_installs_one_package_that_works_from_any_folder(
    dist, tmp_path, empty_database_url
):
    (path,) = dist.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        names = set(archive.namelist())
    assert {name.partition("/")[0] for name in names if ".dist-info/" not in name} == {
        "optiinfra_db"
    }
    assert {f"optiinfra_db/{name}" for name in files_under("generated")} <= names

    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    subprocess.run([*install, tmp_path, path], check=True)
    environment = os.environ | {
        "PYTHONPATH": str(tmp_path),
        "OPTIINFRA_DATABASE_URL": empty_database_url,
    }
    for command in ("migrate", "seed", "status"):
        subprocess.run(
            [sys.executable, "-m", "optiinfra_db", command],
            cwd=tmp_path.parent,
            env=environment,
            check=True,
        )
    where = subprocess.check_output(
        [sys.executable, "-c", "import optiinfra_db; print(optiinfra_db.__file__)"],
        cwd=tmp_path.parent,
        env=environment,
        text=True,
    )
    assert Path(where.strip()).parent.parent == tmp_path


@pytest.fixture
def passable_path():
    """Make a folder that the user who runs PostgreSQL for root gets into, which tmp_path is not."""
    with tempfile.TemporaryDirectory(prefix="optiinfra-sample-") as path:
        Path(path).chmod(0o755)
        yield Path(path)


def test_the_sample_project_passes_against_the_wheel(dist, passable_path):
    """As a reader of its README would do it, in an environment that has nothing else."""
    (wheel,) = dist.glob("*.whl")
    project = passable_path / "cost_agent"
    shutil.copytree(
        ROOT / "examples" / "cost_agent",
        project,
        ignore=shutil.ignore_patterns(".*", "__pycache__"),
    )
    python = project / ".venv" / "bin" / "python"
    commands = [
        [sys.executable, "-m", "venv", ".venv"],
        [
            *(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            f"optiinfra-db[test] @ {wheel.as_uri()}",
            *("--editable", ".[test]"),
        ],
        [python, "-m", "pytest", "-p", "no:cacheprovider"],
        [python, "-c", "import optiinfra_db; print(optiinfra_db.__file__)"],
    ]
    for command in commands:
        done = subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
    assert Path(done.stdout.strip()).is_relative_to(project)
