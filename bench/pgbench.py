"""pgbench, the benchmark of PostgreSQL in C: a statement without what the client takes."""

import subprocess
import tempfile
from pathlib import Path


def seconds(
    bin_dir: Path, url: str, script: str, *, transactions: int, clients: int = 1, **variables: int
) -> list[list[float]]:
    """Return how long each transaction of a script took, prepared, client by client."""
    with tempfile.TemporaryDirectory() as directory:
        (Path(directory) / "script.sql").write_text(script)
        command: list[str | Path] = [
            bin_dir / "pgbench",
            *("--no-vacuum", "--protocol=prepared", "--file=script.sql", "--log"),
            *(f"--client={clients}", f"--transactions={transactions}"),
            *(f"--define={name}={value}" for name, value in variables.items()),
            url,
        ]
        made = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
        if made.returncode != 0:
            raise RuntimeError(f"pgbench failed: {made.stderr.strip()}")
        (log,) = Path(directory).glob("pgbench_log.*")
        taken: list[list[float]] = [[] for _ in range(clients)]
        for line in log.read_text().splitlines():
            client, _, microseconds, *_ = line.split()
            taken[int(client)].append(int(microseconds) / 1e6)
        return taken
