"""Running sqlc with the plugin, and importing what comes out."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import psycopg
from psycopg import sql

ROOT = Path(__file__).parents[2]
PLUGIN = ROOT / "codegen" / "sqlc-gen-psycopg"
NASTY = Path(__file__).parent / "nasty"
GOLDEN = Path(__file__).parent / "golden"
BIN = Path(sys.executable).parent


def run_sqlc(
    folder: Path,
    schema: Path | str,
    queries: Path | str,
    *,
    outs: dict[str, dict[str, Any]] | None = None,
    database_url: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Generate a folder for each of `outs`, whose values are options.

    Schema and queries are paths, or the SQL itself.
    """
    folder.mkdir(parents=True, exist_ok=True)
    entry: dict[str, Any] = {
        "engine": "postgresql",
        "schema": _path(schema, folder / "schema.sql"),
        "queries": _path(queries, folder / "query.sql"),
        "codegen": [
            {"out": out, "plugin": "psycopg", "options": options}
            for out, options in (outs or {"generated": {}}).items()
        ],
    }
    if database_url:
        entry["database"] = {"uri": database_url}
    config = {
        "version": "2",
        "plugins": [
            {
                "name": "psycopg",
                "process": {"cmd": str(PLUGIN), "format": "json"},
                "env": ["PATH"],
            }
        ],
        "sql": [entry],
    }
    (folder / "sqlc.json").write_text(json.dumps(config))
    return subprocess.run(
        [str(BIN / "sqlc"), "generate", "--file", "sqlc.json"],
        cwd=folder,
        env={"PATH": f"{BIN}:/usr/bin:/bin", "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


def generated(folder: Path, *args: Any, out: str = "generated", **kwargs: Any) -> Path:
    """Generate one folder, insist that it worked, and return it."""
    made = run_sqlc(folder, *args, outs={out: {}}, **kwargs)
    assert made.returncode == 0, made.stderr
    return folder / out


def import_package(folder: Path) -> ModuleType:
    """Import a generated package and all its modules."""
    sys.path.insert(0, str(folder.parent))
    try:
        package = importlib.import_module(folder.name)
        for path in sorted(folder.rglob("*.py")):
            name = ".".join(path.relative_to(folder.parent).with_suffix("").parts)
            importlib.import_module(name.removesuffix(".__init__"))
    finally:
        sys.path.remove(str(folder.parent))
    return package


def files_in(folder: Path) -> dict[str, str]:
    """Return the text of each Python file, by path."""
    return {
        str(path.relative_to(folder)): path.read_text(encoding="utf-8")
        for path in sorted(folder.rglob("*.py"))
    }


def new_database(admin_url: str, url: str, name: str, schema: str) -> str:
    """Create a database that holds a schema."""
    with psycopg.connect(admin_url, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(schema.encode())
    return url


def _path(given: Path | str, path: Path) -> str:
    if isinstance(given, Path):
        return os.path.relpath(given, path.parent)  # sqlc takes no absolute path
    path.write_text(given, encoding="utf-8")
    return path.name
