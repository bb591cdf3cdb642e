"""Cases measured side by side on one server, in rounds: what disturbs a round disturbs all alike.

A comparison is a set of cases that do the same work. In each round every case runs once, in random
order, and leaves one sample; ratios are taken round by round.
"""

import contextlib
import gc
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

import psutil
import psycopg
from psycopg import sql

from optiinfra_db import embedded, migrate

SETTINGS = {
    "shared_buffers": "1GB",
    "max_wal_size": "32GB",  # a checkpoint in between would hit one case of a round only
    "checkpoint_timeout": "1h",
    "max_connections": "200",
}
"""Beside PostgreSQL's defaults, among them fsync = on and synchronous_commit = on."""

SECONDS = "s"


@dataclass(frozen=True)
class Scale:
    """How much is measured."""

    name: str
    rounds: int
    """Rounds of a comparison."""

    calls: int
    """Calls of one function in a slice, a case of a round."""

    runs: int
    """Workflows in a slice."""

    imports: int
    """Finished runs that a slice imports."""

    metrics: int
    """Values of metrics that a slice copies."""

    jobs: int
    """Jobs of a queue in a slice."""

    histories: tuple[int, ...]
    """Runs in the histories on which queries are compared, least first."""

    transitions: int
    """Transitions whose cost and bloat is measured."""

    pruned: int
    """Runs that are pruned."""

    lived_in: int
    """Runs of the history of which half is pruned, and months are dropped, while others write."""

    rest_seconds: float
    """How long they write before."""

    @property
    def few(self) -> int:
        """Rounds of what takes long and hardly varies."""
        return max(1, min(5, self.rounds // 2))


TINY = Scale("tiny", 1, 5, 2, 2, 100, 10, (200, 400), 40, 40, 200, 0.2)
QUICK = Scale("quick", 3, 20, 2, 20, 2_000, 60, (1_000, 3_000), 300, 300, 2_000, 1)
FULL = Scale(
    *("full", 15, 300, 15, 200, 1_000_000, 600),
    *((10_000, 100_000, 1_000_000), 1_000_000, 50_000, 2_000_000, 30),
)


@dataclass
class Comparison:
    """Samples of cases, in one unit, the rounds in one order."""

    unit: str
    samples: dict[str, list[float]] = field(default_factory=dict)


@dataclass
class Bench:
    """A server, how much to measure on it, and what was measured."""

    server: embedded.Server
    scale: Scale
    comparisons: dict[str, Comparison] = field(default_factory=dict)

    @contextlib.contextmanager
    def database(self, *, migrated: bool = True) -> Iterator[str]:
        """Make a database for one use, and return its URL."""
        name = f"bench_{uuid4().hex}"
        with self._maintenance() as conn:
            template = sql.Identifier("bench_template" if migrated else "template1")
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(sql.Identifier(name), template)
            )
        try:
            yield self.server.url(name)
        finally:
            with self._maintenance() as conn:
                conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))

    def _maintenance(self) -> psycopg.Connection[tuple[object, ...]]:
        return psycopg.connect(self.server.url("postgres"), autocommit=True)

    def record(self, comparison: str, case: str, value: float, unit: str = SECONDS) -> None:
        """Keep a sample."""
        found = self.comparisons.setdefault(comparison, Comparison(unit))
        found.samples.setdefault(case, []).append(value)

    def compare(
        self,
        comparison: str,
        cases: Mapping[str, Callable[[], object]],
        *,
        per: int,
        rounds: int | None = None,
    ) -> None:
        """Time cases, each of which does `per` operations, and keep the seconds of one.

        A case in which not all counts returns the seconds of what does, as a float. Each runs once
        before the first round, which is not counted.
        """
        rounds = rounds or self.scale.rounds
        for case in cases.values():
            case()
        for number in range(1, rounds + 1):
            say(f"{comparison}: round {number} of {rounds}")
            for name in random.sample(list(cases), len(cases)):
                gc.collect()
                started = time.perf_counter()
                counted = cases[name]()
                passed = time.perf_counter() - started
                seconds = counted if isinstance(counted, float) else passed
                self.record(comparison, name, seconds / per)

    @contextlib.contextmanager
    def apart(self) -> Iterator[None]:
        """Keep this process on one core and the server on another, where there are two.

        A call is a conversation of two processes, and how long it takes depends first of all on
        whether they wake each other on the same core, which would change from slice to slice.
        """
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        if len(cores) == 1:
            yield
            return
        postmaster = psutil.Process(
            int((self.server.pgdata / "postmaster.pid").read_text().partition("\n")[0])
        )
        ours = psutil.Process()

        def pin(core: list[int], other: list[int]) -> None:
            for process in [postmaster, *postmaster.children()]:
                with contextlib.suppress(psutil.Error):
                    process.cpu_affinity(other)
            ours.cpu_affinity(core)
            for thread in ours.threads():
                os.sched_setaffinity(thread.id, core)

        pin(cores[:1], cores[1:2])
        try:
            yield
        finally:
            pin(cores, cores)


@contextlib.contextmanager
def running(scale: Scale) -> Iterator[Bench]:
    """Start a server of its own for the bench; stop and remove it in the end."""
    directory = Path(tempfile.mkdtemp(prefix="optiinfra-bench-"))
    try:
        directory.chmod(0o755)  # the server may have to run as another user
        server = embedded.find(directory / "server")
        try:
            embedded.start(server.data_dir, options=SETTINGS)
            server.ensure_database("bench_template")
            migrate.migrate(server.url("bench_template"), say=lambda _: None)
            with psycopg.connect(server.url("bench_template"), autocommit=True) as conn:
                for name in ("fsync", "synchronous_commit", "full_page_writes"):
                    if conn.execute(f"SHOW {name}".encode()).fetchone() != ("on",):
                        sys.exit(f"The server is not durable: {name} must be on.")
            yield Bench(server, scale)
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def in_python(code: str, *arguments: str) -> object:
    """Run code in a fresh Python, and return the JSON that it prints."""
    result = subprocess.run(
        [sys.executable, *arguments, "-c", code], capture_output=True, text=True, check=True
    )
    return json.loads(result.stdout)


def say(text: str) -> None:
    """Tell the person who waits what goes on: one line on a terminal, which the next replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)
