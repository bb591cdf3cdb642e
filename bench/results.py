"""What was measured, where and with what; its file, and the figures that come of it."""

import dataclasses
import json
import math
import os
import platform
import re
import statistics
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import psycopg

from bench.harness import Bench, Comparison

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "bench" / "results"
PACKAGES = (
    *("psycopg", "psycopg-binary", "psycopg-pool", "asyncpg", "sqlalchemy", "dbos"),
    *("procrastinate", "pgqueuer", "uvloop"),
)
MANY = 100
"""Samples of which all are kept."""

SHOWN = (
    *("server_version", "fsync", "synchronous_commit", "full_page_writes", "wal_sync_method"),
    *("shared_buffers", "max_wal_size", "checkpoint_timeout", "autovacuum", "jit"),
)


@dataclasses.dataclass(frozen=True)
class Figure:
    """A median, and the quartiles around it."""

    value: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Checkout:
    """What code is there: a commit, and what was changed since."""

    commit: str
    changes: str


def checkout() -> Checkout:
    """Look at what code is there."""
    return Checkout(_git("rev-parse", "HEAD"), _git("status", "--porcelain"))


@dataclasses.dataclass(frozen=True)
class Results:
    """The samples of a run of the bench, and its circumstances."""

    about: dict[str, Any]
    comparisons: dict[str, Comparison]

    @classmethod
    def of(cls, bench: Bench, started: datetime, code: Checkout) -> Self:
        """Take what a bench measured; of very many samples, their distribution.

        `code` is what was checked out when it started.
        """
        comparisons = {
            name: Comparison(
                found.unit, {case: _thinned(samples) for case, samples in found.samples.items()}
            )
            for name, found in bench.comparisons.items()
        }
        return cls(_about(bench, started, code), comparisons)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read the file of a run."""
        loaded = json.loads(path.read_text())
        comparisons = {
            name: Comparison(found["unit"], found["samples"])
            for name, found in loaded["comparisons"].items()
        }
        return cls(loaded["about"], comparisons)

    def save(self, path: Path) -> None:
        """Write the file of a run."""
        comparisons = {
            name: {
                "unit": found.unit,
                "samples": {
                    case: [float(f"{sample:.6g}") for sample in samples]
                    for case, samples in found.samples.items()
                },
            }
            for name, found in self.comparisons.items()
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"about": self.about, "comparisons": comparisons}, indent=1)
        path.write_text(re.sub(r",\n +(?=-?[\d.])", ", ", text) + "\n")  # samples in a line

    def samples(self, comparison: str) -> Mapping[str, list[float]]:
        """Return the samples of each case; of none where the comparison was not made."""
        found = self.comparisons.get(comparison)
        return found.samples if found else {}

    def figure(self, comparison: str, case: str) -> Figure | None:
        """Return the median of a case."""
        samples = self.samples(comparison).get(case)
        return _figure(samples) if samples else None

    def ratio(self, comparison: str, over: str, under: str) -> Figure | None:
        """Return the median of what one case took by what another took, round by round."""
        samples = self.samples(comparison)
        if over not in samples or under not in samples:
            return None
        pairs = zip(samples[over], samples[under], strict=False)
        return _figure([a / b for a, b in pairs])


def percentile(samples: list[float], share: float) -> float:
    """Return the smallest sample that so large a share of them does not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def _thinned(samples: list[float]) -> list[float]:
    """Leave of many samples those at each twentieth, from the least to the largest."""
    if len(samples) <= MANY:
        return samples
    return [percentile(samples, part / 20) for part in range(21)]


def _figure(samples: list[float]) -> Figure:
    # Doubled, as there are no quartiles of a single number.
    low, middle, high = statistics.quantiles(samples * 2, n=4, method="inclusive")
    return Figure(middle, low, high)


def _about(bench: Bench, started: datetime, code: Checkout) -> dict[str, Any]:
    with psycopg.connect(bench.server.url("postgres"), autocommit=True) as conn:
        shown = {name: _shown(conn, name) for name in SHOWN}
    return {
        "date": started.date().isoformat(),
        "commit": code.commit,
        "is_clean": code == checkout() and not code.changes,
        "minutes": round((datetime.now(UTC) - started).total_seconds() / 60, 1),
        "scale": dataclasses.asdict(bench.scale),
        "machine": {
            "cores": os.cpu_count(),
            "processor": _processor(),
            "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
            "system": f"{platform.system()} {platform.release()}",
        },
        "versions": {"python": platform.python_version()}
        | {package: version(package) for package in PACKAGES},
        "settings": shown,
    }


def _shown(conn: psycopg.Connection[tuple[Any, ...]], name: str) -> str:
    row = conn.execute("SELECT current_setting(%s)", [name]).fetchone()
    return str(row[0]) if row else ""


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _git(*arguments: str) -> str:
    made = subprocess.run(
        ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return made.stdout.strip()
