"""What it costs to begin: seconds to import, and memory that a connection takes.

Imports are timed in fresh interpreters, with compiled files in place. For ours psycopg is imported
before the clock starts, since whoever calls a generated function has a connection of it: ours come
on top of "psycopg". "first connect" is what `optiinfra_db.connect` imports when it is first called,
to read the configuration, after one module. SQLAlchemy's is the ORM alone, without a driver and
before classes are mapped; asyncpg is a driver, to be compared with psycopg.

Memory is what is resident and not shared with other processes: what one more connection takes of a
fresh client, and all that its backend has, but for what it touched of the shared buffers. It is the
mean of 10 connections, opened beside 10 others that were used alike. "generated" has called 20
functions, 12 times each, whereupon their statements are prepared, and the backend holds their
plans. "SELECT 1" is a plain connection of psycopg that ran that 12 times.
"""

import contextlib
import ctypes
import gc
import json
import pkgutil
import statistics
import sys
from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import UUID

import psutil
import psycopg

import optiinfra_db.settings  # noqa: F401  (which `connect` imports, and is not to count)
from bench import data
from bench.harness import Bench, in_python, say
from optiinfra_db import connect, generated
from optiinfra_db.generated import (
    agents,
    api_keys,
    events,
    recommendations,
    workflow_artifacts,
    workflow_executions,
    workflow_steps,
)
from optiinfra_db.generated.models import ArtifactType

Arguments = dict[str, Any]

TIMES = 12
"""psycopg prepares a statement when it comes for the sixth time, and the server settles on a plan
after five more."""

CONNECTIONS = 10

RUN, STEP, RECOMMENDATION = (UUID(int=0x01941F29_7C00_7000_8000_000000000000 + n) for n in range(3))


def measure(bench: Bench) -> None:
    """Time imports, and weigh connections."""
    modules = ", ".join(
        module.name
        for module in pkgutil.iter_modules(generated.__path__)
        if not module.ispkg and not module.name.startswith("_")
    )
    one = "from optiinfra_db.generated import workflow_steps"
    cases = {
        "psycopg": _import("import psycopg"),
        "optiinfra_db.generated": _import("import optiinfra_db.generated", after="import psycopg"),
        "one module": _import(one, after="import psycopg"),
        "all modules": _import(
            f"from optiinfra_db.generated import {modules}", after="import psycopg"
        ),
        "first connect": _import("import optiinfra_db.settings", after=f"import psycopg\n{one}"),
        "sqlalchemy.orm": _import("import sqlalchemy.orm"),
        "asyncpg": _import("import asyncpg"),
    }
    bench.compare("start-up", cases, per=1, rounds=bench.scale.few)
    rounds = bench.scale.few  # in which memory hardly differs
    for number in range(1, rounds + 1):
        say(f"memory: round {number} of {rounds}")
        for name, function in {"generated": "weigh_generated", "SELECT 1": "weigh_plain"}.items():
            with bench.database() as url:
                platform = data.platform(url)
                sizes: Any = in_python(
                    "from uuid import UUID\n"
                    "from bench.data import Platform\n"
                    "from bench import startup\n"
                    f"startup.{function}({url!r}, {platform!r})"
                )
            for side, size in zip(("client", "server"), sizes, strict=True):
                bench.record("memory", f"{name}, {side}", size, "bytes")


def _import(statement: str, *, after: str = "") -> Callable[[], Any]:
    code = f"""
import json, time
{after}
started = time.perf_counter()
{statement}
print(json.dumps(time.perf_counter() - started))
"""
    return partial(in_python, code)


def weigh_generated(url: str, platform: data.Platform) -> None:
    """Print the memory of connections that called the functions used most."""

    def use(conn: psycopg.Connection[Any]) -> None:
        for call in _calls(platform):
            call(conn)

    _weigh(partial(connect, url), use)


def weigh_plain(url: str, _: data.Platform) -> None:
    """Print the memory of connections that did next to nothing."""
    _weigh(
        partial(psycopg.connect, url, autocommit=True),
        lambda conn: conn.execute("SELECT 1").fetchone(),
    )


def _weigh(
    connect_one: Callable[[], psycopg.Connection[Any]],
    use: Callable[[psycopg.Connection[Any]], object],
) -> None:
    with contextlib.ExitStack() as stack:

        def open_some() -> list[psycopg.Connection[Any]]:
            conns = [stack.enter_context(connect_one()) for _ in range(CONNECTIONS)]
            for conn in conns:
                for _ in range(TIMES):
                    use(conn)
            return conns

        open_some()
        before = _private()
        conns = open_some()
        client = (_private() - before) / CONNECTIONS
        backends = [_private(psutil.Process(conn.info.backend_pid)) for conn in conns]
        print(json.dumps([client, statistics.mean(backends)]))


def _calls(platform: data.Platform) -> list[Callable[[psycopg.Connection[Any]], object]]:
    """Return calls that record a run and look at it; a second time they change nothing."""
    agent: Arguments = {"agent_id": platform.agent_id}
    customer: Arguments = {"customer_id": platform.customer_id}
    run = customer | {"id": RUN}
    of_run = customer | {"workflow_execution_id": RUN}
    step = of_run | {"id": STEP, "retry_count": 0}
    attempt = run | {"attempt": 1}
    page: Arguments = {"max_rows": 50}
    return [
        partial(api_keys.authenticate_api_key, api_key_hash=bytes(32)),
        partial(agents.record_agent_heartbeat, id=platform.agent_id),
        partial(
            workflow_executions.create_workflow_execution,
            **(run | agent),
            workflow_type=data.WORKFLOW_TYPE,
            input_data=data.INPUT,
            step_names=[],
        ),
        partial(workflow_steps.add_workflow_step, **of_run, id=STEP, step_name=data.STEPS[0]),
        partial(workflow_executions.claim_workflow_execution, **agent),
        partial(workflow_executions.start_workflow_execution, **run),
        partial(workflow_executions.heartbeat_workflow_execution, **attempt),
        partial(workflow_steps.start_workflow_step, **of_run, id=STEP),
        partial(workflow_steps.advance_workflow_step, **step, output_data=data.STEP_OUTPUT),
        partial(workflow_steps.fail_workflow_step, **step, retryable=False, error_details={}),
        partial(
            workflow_artifacts.register_workflow_artifact,
            **of_run,
            workflow_step_id=STEP,
            artifact_type=ArtifactType.REPORT,
            artifact_name="Cost report",
            artifact_path="s3://artifacts/report.pdf",
            artifact_size_bytes=182_334,
            content_type="application/pdf",
            sha256=bytes(32),
        ),
        partial(
            recommendations.create_recommendation,
            **(customer | agent),
            id=RECOMMENDATION,
            type="right_sizing",
            title="Use smaller instances",
        ),
        partial(
            workflow_executions.complete_workflow_execution, **attempt, output_data=data.OUTPUT
        ),
        partial(workflow_executions.get_workflow_execution, **run),
        partial(workflow_executions.get_workflow_detail, **run),
        partial(workflow_executions.list_workflow_executions, **(customer | page)),
        partial(workflow_executions.list_running_workflows, **page),
        partial(workflow_steps.list_workflow_steps, **of_run),
        partial(workflow_artifacts.list_workflow_artifacts, **of_run),
        partial(events.list_events_by_subject, **(customer | page), subject_id=RUN),
    ]


def _private(process: psutil.Process | None = None) -> int:
    """Return how much memory a process, or this one, has for itself."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)  # what is free and kept would hide what is taken next
    memory = (process or psutil.Process()).memory_info()
    return int(memory.rss - getattr(memory, "shared", 0))
