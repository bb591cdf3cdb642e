"""An asyncio agent: workers that take runs from the queue, and do them step by step.

    optiinfra-db migrate && optiinfra-db seed
    python examples/asyncio_agent.py              # puts three runs into the queue, and does them
    python examples/asyncio_agent.py --forever    # stays for more, until Ctrl-C or SIGTERM

Start it as often as you like: no two workers get the same run. Stopped, it cancels the runs that it
is at, and `retry_workflow_execution` puts such a run back to the queue.
"""

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import tempfile
from typing import Any
from uuid import UUID

from psycopg_pool import AsyncConnectionPool

from optiinfra_db import connect_async, pool_async
from optiinfra_db.generated.aio import workflow_executions
from optiinfra_db.generated.models import ArtifactType, WorkflowType
from optiinfra_db.seed import ATLAS, COST, INDIE, NIMBUS
from optiinfra_db.workflows.aio import (
    Run,
    Workflow,
    claim_workflow,
    current_run,
    current_step,
    step,
    workflow,
)

POLL_SECONDS = 1
logger = logging.getLogger("cost-agent")

# --- What the agent can do: functions that are steps, and a function of them that is a workflow


@step(retries=3, retry_on=ConnectionError, backoff_seconds=0.1)
async def collect_usage(period: str) -> dict[str, float]:
    """Read what is in use; here the service that knows it is down at first."""
    if current_step().retry_count == 0:
        raise ConnectionError("billing refused the connection")
    return {"gpus": 12, "gpu_hours": 2_900, "storage_tb": 45.2}


@step
async def analyze_gpus(usage: dict[str, float], seconds: float) -> int:
    """Return what idle GPUs cost a month, in USD."""
    await asyncio.sleep(seconds)  # stands for work
    return round(2_500 * usage["gpus"] - 4 * usage["gpu_hours"])


@step
async def analyze_storage(usage: dict[str, float], seconds: float) -> int:
    """Return what data that nobody reads costs a month, in USD."""
    await asyncio.sleep(seconds)
    return round(23 * usage["storage_tb"])


@step
async def write_report(savings_usd: dict[str, int]) -> dict[str, Any]:
    """Leave a report in the store of artifacts."""
    report = "# Savings a month\n\n" + "".join(
        f"- {what}: {usd} USD\n" for what, usd in savings_usd.items()
    )
    artifact = await current_run().artifact(
        ArtifactType.REPORT, "report.md", data=report.encode(), step=current_step()
    )
    return {"savings_usd": sum(savings_usd.values()), "report": artifact.artifact_path}


@workflow(
    WorkflowType.COST_ANALYSIS, steps=[collect_usage, analyze_gpus, analyze_storage, write_report]
)
async def cost_analysis(run: Run) -> dict[str, Any]:
    """Find what a customer could save; what it returns is the output of the run."""
    seconds = run.input_data.get("seconds", 0.3)
    usage = await collect_usage(run.input_data["period"])
    async with asyncio.TaskGroup() as group:  # both at once
        gpus = group.create_task(analyze_gpus(usage, seconds))
        storage = group.create_task(analyze_storage(usage, seconds))
    return await write_report({"gpus": gpus.result(), "storage": storage.result()})


WORKFLOWS: dict[WorkflowType, Workflow[Any]] = {WorkflowType.COST_ANALYSIS: cost_analysis}

# --- The agent


async def work(
    pool: AsyncConnectionPool[Any], agent_id: UUID, *, store: str, forever: bool
) -> None:
    """Do one run after the other: until none waits, or for ever."""
    while True:
        try:
            was_there = await work_on_next(pool, agent_id, store)
        except Exception as error:
            # Of a run, which is over now and says so in its history, or of the database.
            logger.warning("%s: %s", type(error).__name__, error)
            await asyncio.sleep(POLL_SECONDS)
            continue
        if not was_there:
            if not forever:
                return
            await asyncio.sleep(POLL_SECONDS)


async def work_on_next(pool: AsyncConnectionPool[Any], agent_id: UUID, store: str) -> bool:
    """Take the oldest run that waits for the agent, and do it; return whether there was one.

    A run has its connection to itself while it lasts.
    """
    async with (
        pool.connection() as conn,
        claim_workflow(conn, agent_id=agent_id, store=store, requeue=1) as run,
    ):
        if run is None:
            return False
        if run.workflow_type not in WORKFLOWS:
            raise LookupError(f"this agent does not know how to do {run.workflow_type}")
        await WORKFLOWS[run.workflow_type].execute(run)
    return True


async def enqueue() -> list[tuple[UUID, UUID]]:
    """Put a run for each sample customer into the queue; return the keys of the runs."""
    runs = []
    async with await connect_async(actor="scheduler") as conn:
        for customer_id in (INDIE, NIMBUS, ATLAS):
            run = await cost_analysis.enqueue(
                conn,
                customer_id=customer_id,
                agent_id=COST,
                input_data={"period": "last_30_days"},
            )
            runs.append((run.customer_id, run.id))
    return runs


async def show(runs: list[tuple[UUID, UUID]]) -> None:
    """Print what came of runs."""
    async with await connect_async() as conn:
        for customer_id, run_id in runs:
            detail = await workflow_executions.get_workflow_detail(
                conn, customer_id=customer_id, id=run_id
            )
            assert detail is not None
            run = detail.workflow_execution
            print(f"\n{detail.customer.name}: {run.status} {json.dumps(run.output_data)}")
            for row in detail.steps:
                retries = f", {row.retry_count} retry" if row.retry_count else ""
                print(f"{row.step_order:3} {row.step_name} {row.status}{retries}")


async def main(*, workers: int, forever: bool) -> None:
    """Do what is in the queue, with a few workers."""
    # Ctrl-C cancels this task; so shall SIGTERM, whether the workers are at a run or wait for one.
    this_task = asyncio.current_task()
    assert this_task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, this_task.cancel)

    store = os.environ.get("OPTIINFRA_ARTIFACTS_URL") or tempfile.mkdtemp(prefix="optiinfra-")
    runs = await enqueue()
    async with (
        pool_async(actor="cost-agent", min_size=workers, max_size=workers) as pool,
        asyncio.TaskGroup() as group,
    ):
        for _ in range(workers):
            group.create_task(work(pool, COST, store=store, forever=forever))
    await show(runs)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="An agent that works off the queue.")
    parser.add_argument("--workers", type=int, default=3)
    parser.add_argument("--forever", action="store_true", help="stay for more runs")
    arguments = parser.parse_args()
    try:
        asyncio.run(main(workers=arguments.workers, forever=arguments.forever))
    except asyncio.CancelledError:
        sys.exit(128 + signal.SIGTERM)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
