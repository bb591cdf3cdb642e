"""Runs `optiinfra-db` as its users do, in a process of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

COMMAND = Path(sys.executable).with_name("optiinfra-db")
MISSING_URL = "postgresql://postgres@127.0.0.1:1/nothing"


def run(*args, url=None, data_dir="/nonexistent/optiinfra", env=None, **kwargs):
    """Run the command; return the process that ended, with its output as text."""
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": "/nonexistent",
        "OPTIINFRA_DATA_DIR": str(data_dir),
        "OPTIINFRA_DATABASE_URL": url or "",
        **(env or {}),
    }
    return subprocess.run(
        [COMMAND, *args], env=environment, capture_output=True, text=True, check=False, **kwargs
    )


def read_json(*args, url, exit_code=0):
    """Run the command with --json; return what it printed."""
    result = run(*args, "--json", url=url)
    assert result.returncode == exit_code, result.stderr
    return json.loads(result.stdout)
