"""Measure what the triggers of runs and steps cost a durable status transition.

Starts a PostgreSQL of its own in a temporary directory, migrates and fills it, and has pgbench move
steps and runs by primary key, pending -> running -> completed, one statement a transaction, with
the triggers of `workflow_executions` and `workflow_steps` enabled and disabled by turns. Foreign
keys stay on in both. What the triggers are is read from the catalogue.

    .venv/bin/python bench/trigger_cost.py
    .venv/bin/python bench/trigger_cost.py --pg /usr/lib/postgresql/15/bin --rounds 10

A pair is one measurement with triggers and one without, next to each other in time, in random
order. `ratio` is the median over the pairs of (rate without / rate with), and the numbers after it
are the quartiles. `us` is the median time of one transition. Every transition is a commit that
waits for fsync; checkpoints and autovacuum are put off, as they would hit one half of a pair only.
A pair in which other programs took more than --foreign of a core is measured again.
"""

import argparse
import contextlib
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from optiinfra_db import embedded, migrate

Connection = psycopg.Connection[tuple[Any, ...]]

CUSTOMERS = 20
AGENTS = 10
STEPS_A_RUN = 4
BLOCK = 32  # rows in a row that one client moves: neighbours on a page, as when work is done
NUMBER = 100_000_000_000  # the last group of an id is this + a number: always twelve digits
MOVES = 2  # transitions in a script
RETRIES = 5  # of a pair that was disturbed

SETTINGS = {"autovacuum": "off", "checkpoint_timeout": "1d", "max_wal_size": "64GB"}

TRIGGERS = """
SELECT pg_class.relname::text, pg_trigger.tgname::text
FROM pg_trigger
INNER JOIN pg_class ON pg_trigger.tgrelid = pg_class.oid
WHERE NOT pg_trigger.tgisinternal AND pg_trigger.tgrelid = ANY (%s::text[]::regclass[])
ORDER BY 1, 2
"""


def _id(kind: int, number: str) -> str:
    """Return SQL for the id of a row."""
    return f"('01941f29-7c00-7000-800{kind}-' || ({number}))::uuid"


def _customer(number: str) -> str:
    return _id(1, number)


def _agent(number: str) -> str:
    return _id(2, number)


def _run(number: str) -> str:
    return _id(3, number)


def _step(number: str) -> str:
    return _id(4, number)


# The first :rows runs are there to be moved; those after them run already, and own the steps.
FILL = f"""
INSERT INTO customers (id, name, email)
SELECT {_customer(f"{NUMBER} + n")}, 'c' || n, 'c' || n || '@example.com'
FROM generate_series(0, {CUSTOMERS} - 1) AS n;

INSERT INTO agents (id, type, name, version)
SELECT {_agent(f"{NUMBER} + n")}, 'cost', 'a' || n, '1.0.0'
FROM generate_series(0, {AGENTS} - 1) AS n;

INSERT INTO workflow_executions (
    customer_id, id, agent_id, workflow_type, status, started_at, input_data
)
SELECT {_customer(f"{NUMBER} + n % {CUSTOMERS}")}, {_run(f"{NUMBER} + n")},
    {_agent(f"{NUMBER} + n % {AGENTS}")}, 'cost_analysis',
    (CASE WHEN n < :rows THEN 'pending' ELSE 'running' END)::workflow_status,
    CASE WHEN n >= :rows THEN now() END,
    '{{"resource": "cluster-1", "window_days": 30}}'
FROM generate_series(0, :rows + :rows / {STEPS_A_RUN}) AS n;

INSERT INTO workflow_steps (
    customer_id, workflow_execution_id, id, step_name, step_order, input_data
)
SELECT {_customer(f"{NUMBER} + run % {CUSTOMERS}")}, {_run(f"{NUMBER} + run")},
    {_step(f"{NUMBER} + n")}, 'collect_metrics', n % {STEPS_A_RUN} + 1,
    '{{"resource": "cluster-1"}}'
FROM (
    SELECT n, :rows + n / {STEPS_A_RUN} AS run FROM generate_series(0, :rows - 1) AS n
) AS planned
"""

# Each client takes every clients-th block of rows: its row i is row n of the table.
NEXT_ROW = f"""\
\\set i :i + 1
\\set n :base + ((:i / {BLOCK}) * :clients + :client_id) * {BLOCK} + :i % {BLOCK}
"""


def _script(table: str, run: str, where: str) -> str:
    """Return a pgbench script that moves one row to its end."""
    where = f"customer_id = {_customer(':customer')} AND {where}"
    return f"""{NEXT_ROW}\
\\set run {run}
\\set customer {NUMBER} + :run % {CUSTOMERS}
\\set run {NUMBER} + :run
\\set id {NUMBER} + :n
UPDATE {table} SET status = 'running', started_at = now()
WHERE {where} AND status = 'pending';
UPDATE {table} SET status = 'completed', completed_at = now(), output_data = '{{"found": 12}}'
WHERE {where} AND status = 'running';
"""


SCRIPTS = {
    "workflow_steps": _script(
        "workflow_steps",
        f":rows + :n / {STEPS_A_RUN}",
        f"workflow_execution_id = {_run(':run')} AND id = {_step(':id')}",
    ),
    "workflow_executions": _script("workflow_executions", ":n", f"id = {_run(':run')}"),
}


@dataclass
class Bench:
    """A filled server, and how far its rows are used up."""

    server: embedded.Server
    conn: Connection
    options: argparse.Namespace
    scripts: Path
    triggers: list[tuple[str, str]]
    used: dict[str, int]

    def switch(self, *, on: bool) -> None:
        """Enable or disable the triggers."""
        query = sql.SQL("ALTER TABLE {} {} TRIGGER {}")
        action = sql.SQL("ENABLE" if on else "DISABLE")
        for table, name in self.triggers:
            self.conn.execute(query.format(sql.Identifier(table), action, sql.Identifier(name)))

    def run(self, table: str, clients: int) -> tuple[float, float]:
        """Return transitions a second, and how much of a core other programs took meanwhile."""
        variables = {"i": -1, "base": self.used[table], "clients": clients}
        variables["rows"] = self.options.rows
        command: list[str | Path] = [
            self.server.bin_dir / "pgbench",
            *("--no-vacuum", f"--protocol={self.options.protocol}"),
            *(f"--client={clients}", f"--jobs={min(clients, os.cpu_count() or 1)}"),
            f"--time={self.options.seconds}",
            *(f"--define={name}={value}" for name, value in variables.items()),
            f"--file={self.scripts / table}.sql",
            self.server.url(),
        ]
        started, busy, own = time.monotonic(), _busy_seconds(), self._own_seconds()
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        time.sleep(0.05)  # till the last connection is gone, and counted
        foreign = (_busy_seconds() - busy) - (self._own_seconds() - own)
        foreign /= time.monotonic() - started
        rate = re.search(r"tps = ([\d.]+)", result.stdout)
        if result.returncode != 0 or rate is None:
            sys.exit(f"pgbench failed:\n{result.stderr.strip()}")
        self._use_up(table)
        return float(rate[1]) * MOVES, foreign

    def _use_up(self, table: str) -> None:
        """Note the first row that no client has touched."""
        query = sql.SQL(
            "SELECT coalesce(max(n) + 1, 0) FROM ("
            "SELECT right(id::text, 12)::bigint - %s AS n FROM {} WHERE status != 'pending'"
            ") AS touched WHERE n < %s"
        ).format(sql.Identifier(table))
        row = self.conn.execute(query, [NUMBER, self.options.rows]).fetchone()
        self.used[table] = row[0] if row else 0
        if self.used[table] > self.options.rows - BLOCK * max(self.options.clients):
            sys.exit(f"No {table} are left to be moved: give more --rows, or fewer --rounds.")

    def _own_seconds(self) -> float:
        """Return the CPU time of the server's finished connections and of pgbench."""
        pid = (self.server.pgdata / "postmaster.pid").read_text().partition("\n")[0]
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return 0.0
        usage = resource.getrusage(resource.RUSAGE_CHILDREN)
        return _ticks(fields[11:15]) + usage.ru_utime + usage.ru_stime


def _busy_seconds() -> float:
    """Return the CPU time of everything that runs here, or 0 where the system does not tell."""
    try:
        line = Path("/proc/stat").read_text().partition("\n")[0]
    except OSError:
        return 0.0
    user, nice, system, _idle, _iowait, irq, softirq, *_ = line.split()[1:]
    return _ticks([user, nice, system, irq, softirq])


def _ticks(counts: list[str]) -> float:
    return sum(map(int, counts)) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Run from the command line."""
    options = _options()
    try:
        with _bench(options) as bench:
            lines = [_line(bench, table, n) for n in options.clients for table in SCRIPTS]
    except KeyboardInterrupt:
        _say("interrupted")
        sys.exit(130)
    print(f"{'table':20} {'clients':>7} {'us without':>10} {'us with':>7}  ratio  quartiles")
    print("\n".join(lines))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rounds", type=_positive, default=8, help="pairs a line (default: 8)")
    add("--seconds", type=_positive, default=4, help="length of half a pair (default: 4)")
    add(
        *("--clients", "-c"),
        type=_positive,
        nargs="+",
        default=[1, 8],
        help="numbers of connections (default: 1 8)",
    )
    add("--pg", type=Path, metavar="DIR", help="programs of another PostgreSQL than the wheel's")
    add(
        "--rows",
        type=_positive,
        default=1_000_000,
        help="runs, and steps, to be moved, each once (default: 1000000)",
    )
    add(
        "--protocol",
        choices=["simple", "extended", "prepared"],
        default="prepared",
        help="how pgbench sends statements (default: prepared)",
    )
    add(
        "--foreign",
        type=float,
        default=0.35,
        metavar="CORES",
        help="how much other programs may take (default: 0.35)",
    )
    return parser.parse_args()


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be 1 or more")
    return number


@contextlib.contextmanager
def _bench(options: argparse.Namespace) -> Iterator[Bench]:
    """Start, migrate and fill a server; stop and remove it in the end."""
    directory = Path(tempfile.mkdtemp(prefix="trigger-cost-"))
    try:
        directory.chmod(0o755)  # the server may have to run as another user
        server = embedded.find(directory / "server", bin_dir=options.pg)
        try:
            embedded.start(server.data_dir, bin_dir=options.pg, options=SETTINGS)
            server.ensure_database()
            migrate.migrate(server.url(), say=_say)
            with psycopg.connect(server.url(), autocommit=True) as conn:
                yield _filled(server, conn, options, directory)
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _filled(
    server: embedded.Server, conn: Connection, options: argparse.Namespace, directory: Path
) -> Bench:
    settings = [
        conn.execute(sql.SQL("SHOW {}").format(sql.Identifier(name))).fetchone()
        for name in ("fsync", "synchronous_commit")
    ]
    if settings != [("on",), ("on",)]:
        sys.exit("The server is not durable: fsync and synchronous_commit must be on.")
    triggers = [(table, name) for table, name in conn.execute(TRIGGERS, [list(SCRIPTS)])]
    _say(f"PostgreSQL {conn.info.parameter_status('server_version')}")
    _say(f"triggers: {', '.join(name for _, name in triggers) or 'none'}")
    for table, script in SCRIPTS.items():
        (directory / f"{table}.sql").write_text(script)
    bench = Bench(server, conn, options, directory, triggers, dict.fromkeys(SCRIPTS, 0))
    bench.switch(on=False)
    _say(f"filling: {options.rows} runs and {options.rows} steps")
    conn.execute(FILL.replace(":rows", str(options.rows)).encode())
    conn.execute("VACUUM (ANALYZE)")
    conn.execute("CHECKPOINT")
    return bench


def _line(bench: Bench, table: str, clients: int) -> str:
    """Measure, and return a line of the result."""
    pairs = []
    for number in range(1, bench.options.rounds + 1):
        pair, foreign = _pair(bench, table, clients)
        for _ in range(RETRIES):
            if foreign <= bench.options.foreign:
                break
            _say(f"other programs took {foreign:.2f} of a core: measuring again")
            pair, foreign = _pair(bench, table, clients)
        _say(
            f"{table}, clients: {clients}, pair {number} of {bench.options.rounds}: "
            f"{pair[False]:.0f}/s without, {pair[True]:.0f}/s with triggers, "
            f"ratio {pair[False] / pair[True]:.2f}"
        )
        pairs.append(pair)
    ratios = [pair[False] / pair[True] for pair in pairs]
    # Doubled, as there are no quartiles of a single number.
    low, middle, high = statistics.quantiles(ratios * 2, n=4, method="inclusive")
    without, with_ = (
        clients / statistics.median(pair[on] for pair in pairs) * 1e6 for on in (False, True)
    )
    return (
        f"{table:20} {clients:7} {without:10.0f} {with_:7.0f}  {middle:5.2f}  "
        f"{low:.2f} .. {high:.2f}"
    )


def _pair(bench: Bench, table: str, clients: int) -> tuple[dict[bool, float], float]:
    """Return the rates without and with triggers, and the worse disturbance."""
    rates, disturbance = {}, 0.0
    for on in random.sample([False, True], 2):
        bench.switch(on=on)
        rates[on], foreign = bench.run(table, clients)
        disturbance = max(disturbance, foreign)
    return rates, disturbance


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
