"""Write generated/ and the pages of tables and queries in docs/, or check them.

sqlc wants a live database to type the queries, so this loads schema/ into a throw-away database of
the embedded server, runs sqlc there (generate, then vet), writes the names of its constraints and
the pages, and compares what comes out with what is there. Files in the folders of what is
generated that nothing accounts for count as a difference, and go.
"""

import argparse
import filecmp
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

import constraints
import query_pages
import state_machines
import table_pages
from optiinfra_db import embedded

ROOT = Path(__file__).resolve().parent.parent
DOCS = Path("docs")
STATE_MACHINES = DOCS / "state-machines.md"
MADE = (
    Path("generated"),
    DOCS / table_pages.FOLDER,
    DOCS / query_pages.FOLDER,
    DOCS / table_pages.DIAGRAM,
    STATE_MACHINES,
)
"""The folders and files that are made, and nothing else is in."""


@contextmanager
def schema_database() -> Iterator[str]:
    """Yield the URL of a new database that holds schema/, and drop it afterwards."""
    server = embedded.start()
    name = f"optiinfra_codegen_{os.getpid()}"
    identifier = sql.Identifier(name)
    with psycopg.connect(server.url("postgres"), autocommit=True) as admin:
        admin.execute(sql.SQL("CREATE DATABASE {}").format(identifier))
        try:
            with psycopg.connect(server.url(name), autocommit=True) as conn:
                for path in sorted((ROOT / "schema").glob("*.sql")):
                    conn.execute(path.read_bytes())
            yield server.url(name)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(identifier))


def make(folder: Path) -> None:
    """Make all files in a folder that looks like the project but for its empty generated/."""
    for name in ("schema", "queries", "codegen", "sqlc.yaml"):
        (folder / name).symlink_to(ROOT / name)
    print("Loading schema/ into the embedded PostgreSQL", file=sys.stderr)
    with schema_database() as url:
        run_sqlc(folder, url)
        with psycopg.connect(url) as conn:
            (folder / "generated" / "constraints.py").write_text(constraints.source(conn))
            write_pages(folder, conn)


def write_pages(folder: Path, conn: psycopg.Connection[Any]) -> None:
    """Write the pages of tables and queries, once the modules of the queries are there."""
    relations = table_pages.relations(conn, folder / "schema")
    modules = query_pages.modules(folder / "queries", folder / "generated")
    links = {**table_pages.links(relations), **query_pages.links(modules)}
    arrows = state_machines.arrows(conn)
    pages = {
        **table_pages.pages(
            relations,
            table_pages.foreign_keys(conn),
            state_machines.machines(arrows),
            query_pages.uses_of_indexes(modules),
            links,
        ),
        **query_pages.pages(modules, links),
    }
    for path, text in pages.items():
        (folder / DOCS / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / DOCS / path).write_text(text)
    (folder / STATE_MACHINES).write_text(state_machines.markdown(arrows))


def run_sqlc(folder: Path, url: str) -> None:
    """Run sqlc in a folder, on a database that holds schema/."""
    # The plugin runs under this Python, and sqlc comes from the same environment.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path, "OPTIINFRA_CODEGEN_URL": url}
    for command in ("generate", "vet"):
        print(f"Running sqlc {command}", file=sys.stderr)
        sqlc = ["sqlc", command, "--file", str(folder / "sqlc.yaml")]
        subprocess.run(sqlc, cwd=folder, env=environment, check=True)  # noqa: S603 -- sqlc, by its path


def files_in(folder: Path) -> set[Path]:
    """Return the paths of the files that are made, or to be so, relative to a folder."""
    paths = [path for made in MADE for path in [folder / made, *(folder / made).rglob("*")]]
    return {
        path.relative_to(folder)
        for path in paths
        if path.is_file() and "__pycache__" not in path.parts
    }


def differences(made: Path, present: Path) -> list[str]:
    """List what differs between the files just made and those present, a line each."""
    new, old = files_in(made), files_in(present)
    return sorted(
        [f"missing: {path}" for path in new - old]
        + [f"orphaned: {path}" for path in old - new]
        + [
            f"outdated: {path}"
            for path in new & old
            if not filecmp.cmp(made / path, present / path, shallow=False)
        ]
    )


def main() -> int:
    """Run as a command; the exit code is 1 where --check finds a difference."""
    parser = argparse.ArgumentParser(description="Write what is generated, or check it.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if not current")
    check = parser.parse_args().check
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder)
        try:
            make(made)
        except subprocess.CalledProcessError as error:
            return int(error.returncode)
        except (constraints.UnnameableConstraint, state_machines.NotAStateMachine) as error:
            print(error, file=sys.stderr)
            return 1
        changed = differences(made, ROOT)
        for line in changed:
            print(line)
        if not check:
            for path in files_in(ROOT) - files_in(made):
                (ROOT / path).unlink()
            for path in files_in(made):
                (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(made / path, ROOT / path)
    if check and changed:
        print("Not current: run `make generate` and commit what it writes.")
        return 1
    print(f"What is generated is current: {len(files_in(ROOT))} files.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
