"""The recorder survives: signals, a killed process, a server that restarts, one that is gone."""

# ruff: noqa: PT012 -- the block is what is tested

import asyncio
import os
import random
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import suppress
from datetime import timedelta
from uuid import UUID

import pytest

from optiinfra_db import connect, connect_async, embedded, workflows
from optiinfra_db.errors import ConnectionLost, DatabaseUnreachable
from optiinfra_db.generated import workflow_executions
from optiinfra_db.generated.models import WorkflowStatus, WorkflowType
from optiinfra_db.migrate import migrate
from optiinfra_db.workflows import aio

from ..conftest import running_server
from .conftest import Made, recorder

SYNC = """
    import sys, time
    from uuid import UUID
    from optiinfra_db import connect
    from optiinfra_db.workflows import record_workflow

    url, customer_id, agent_id = sys.argv[1], UUID(sys.argv[2]), UUID(sys.argv[3])
    with connect(url, actor="child") as conn, record_workflow(
        conn, customer_id=customer_id, agent_id=agent_id, workflow_type="cost_analysis",
        steps=["a", "b", "c"], heartbeat_seconds=0.05,
    ) as run:
        with run.step("a") as step:
            step.output_data = {"n": 1}
        with run.step("b"):
            print(run.id, flush=True)
            time.sleep(60)
"""
ASYNC = """
    import asyncio, sys
    from uuid import UUID
    from optiinfra_db import connect_async
    from optiinfra_db.workflows.aio import record_workflow

    url, customer_id, agent_id = sys.argv[1], UUID(sys.argv[2]), UUID(sys.argv[3])

    async def main():
        async with await connect_async(url, actor="child") as conn:
            async with record_workflow(
                conn, customer_id=customer_id, agent_id=agent_id, workflow_type="cost_analysis",
                steps=["a", "b", "c"], heartbeat_seconds=0.05,
            ) as run:
                async with run.step("a") as step:
                    step.output_data = {"n": 1}
                async with run.step("b"):
                    print(run.id, flush=True)
                    await asyncio.sleep(60)

    asyncio.run(main())
"""
SCRIPTS = pytest.mark.parametrize("script", [SYNC, ASYNC], ids=["sync", "async"])


def child(script, made):
    """Start a process that records a run, and return it with the id of the run."""
    arguments = [made.url, str(made.customer_id), str(made.agent_id)]
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    return process, UUID(process.stdout.readline().strip())


def ended(process, number):
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    return process.returncode, errors


@SCRIPTS
@pytest.mark.parametrize(
    ("number", "code", "reason"),
    [
        (signal.SIGINT, -signal.SIGINT, r"interrupted \("),
        (signal.SIGTERM, 143, r"terminated \(SIGTERM\)"),
    ],
)
def test_a_signal_cancels_the_run(made, script, number, code, reason):
    process, run_id = child(script, made)

    assert ended(process, number)[0] == code

    run = made.run(run_id)
    assert run.status is WorkflowStatus.CANCELLED
    assert re.search(reason, run.metadata["cancel_reason"])
    assert made.steps(run_id) == [("a", "completed"), ("b", "failed"), ("c", "skipped")]


@SCRIPTS
def test_a_killed_run_is_resumed(made, script):
    process, run_id = child(script, made)
    assert ended(process, signal.SIGKILL)[0] == -signal.SIGKILL
    assert made.run(run_id).status is WorkflowStatus.RUNNING

    with workflows.resume(
        made.conn, run_id, customer_id=made.customer_id, heartbeat_timeout=timedelta(0)
    ) as run:
        assert run.output_of("a") == {"n": 1}
        for name in ("b", "c"):
            with run.step(name):
                pass

    assert made.run(run_id).error_details["type"] == "ExecutorLost"
    assert made.run(run.id).status is WorkflowStatus.COMPLETED
    assert made.steps(run.id) == [("a", "skipped"), ("b", "completed"), ("c", "completed")]


def test_several_runs_of_one_process_are_cancelled_by_sigterm(made):
    script = """
        import asyncio, sys
        from uuid import UUID
        from optiinfra_db import connect_async
        from optiinfra_db.workflows.aio import record_workflow

        url, customer_id, agent_id = sys.argv[1], UUID(sys.argv[2]), UUID(sys.argv[3])
        begun = []

        async def work():
            async with await connect_async(url) as conn:
                async with record_workflow(
                    conn, customer_id=customer_id, agent_id=agent_id,
                    workflow_type="cost_analysis", steps=["a"],
                ) as run, run.step("a"):
                    begun.append(run.id)
                    if len(begun) == 3:
                        print(run.id, flush=True)
                    await asyncio.sleep(60)

        async def main():
            await asyncio.gather(*(work() for _ in range(3)))

        asyncio.run(main())
    """
    process, _ = child(script, made)

    assert ended(process, signal.SIGTERM)[0] == 143

    assert [run.status for run in made.runs()] == [WorkflowStatus.CANCELLED] * 3


def test_a_process_that_handles_sigterm_is_left_alone(made):
    script = """
        import signal, sys
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(7))
    """
    process, run_id = child(textwrap.dedent(script) + textwrap.dedent(SYNC), made)

    assert ended(process, signal.SIGTERM)[0] == 7
    reason = made.run(run_id).metadata["cancel_reason"]
    assert reason == "the executor was interrupted (SystemExit: 7)"


def test_the_handler_of_sigterm_is_put_back(made):
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    options = {**made.of, "workflow_type": WorkflowType.COST_ANALYSIS}
    with workflows.record_workflow(made.conn, **options):
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        with workflows.record_workflow(made.conn, **options):
            pass
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_a_task_that_is_cancelled_cancels_its_run(made):
    async with await connect_async(made.url) as conn:
        begun = asyncio.Event()

        async def work():
            async with (
                aio.record_workflow(
                    conn, **made.of, workflow_type=WorkflowType.COST_ANALYSIS, steps=["a"]
                ) as run,
                run.step("a"),
            ):
                begun.set()
                await asyncio.sleep(60)

        task = asyncio.create_task(work())
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert [other for other in asyncio.all_tasks() if "heartbeats" in other.get_name()] == []
    assert made.run().status is WorkflowStatus.CANCELLED


@pytest.mark.parametrize("way", ["claim", "record"])
async def test_whenever_a_task_is_cancelled_no_run_is_left_running(made, way):
    """At any of the moments, too, at which the run is there and its block is not."""
    left = 0
    took = None
    for moment in range(61):
        if way == "claim":
            made.planned("a")

        async def work(connected, begun):
            async with await connect_async(made.url) as conn:
                connected.set()
                if way == "claim":
                    block = aio.claim_workflow(conn, agent_id=made.agent_id)
                else:
                    block = aio.record_workflow(
                        conn, **made.of, workflow_type=WorkflowType.COST_ANALYSIS, steps=["a"]
                    )
                async with block:
                    begun.set()
                    await asyncio.sleep(60)

        connected, begun = asyncio.Event(), asyncio.Event()
        task = asyncio.create_task(work(connected, begun))
        await connected.wait()
        if took is None:
            started = time.perf_counter()
            await begun.wait()
            took = time.perf_counter() - started
        else:
            await asyncio.sleep(moment / 40 * took)
        task.cancel("enough")
        with suppress(asyncio.CancelledError):
            await task
        statuses = [run.status for run in made.runs()]
        assert WorkflowStatus.RUNNING not in statuses, moment
        left += WorkflowStatus.CANCELLED in statuses
        for run in made.runs():
            workflow_executions.delete_workflow_execution(
                made.conn, customer_id=made.customer_id, id=run.id
            )
    assert left > 5


# The server


@pytest.fixture
def own_server(request):
    """Start a server that may be stopped and started."""
    with running_server(str(request.config.getoption("--pg"))) as server:
        server.ensure_database()
        migrate(server.url())
        yield server


def start(server):
    embedded.start(server.data_dir, bin_dir=server.bin_dir)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_server_that_restarts_mid_run_is_found_again(own_server, kind):
    async with recorder(kind, own_server.url()) as rec:
        with connect(own_server.url()) as conn:
            made = Made(conn, own_server.url())
        async with rec.record_workflow(
            **made.of,
            workflow_type=WorkflowType.COST_ANALYSIS,
            steps=["a", "b", "c"],
            heartbeat_seconds=0.05,
        ) as run:
            before = run.conn
            async with run.step("a"):
                own_server.stop()
                start(own_server)
            assert run.conn is not before
            async with run.step("b"):
                own_server.stop()
                starting = threading.Timer(1, start, [own_server])
                starting.start()
            async with run.step("c") as step:
                step.output_data = [1]
            starting.join()
        assert run.conn.closed  # the one that took its place, which nobody else would close

    with connect(own_server.url()) as conn:
        made.conn = conn
        assert made.run().status is WorkflowStatus.COMPLETED
        assert made.steps() == [(name, "completed") for name in "abc"]
        (event,) = conn.execute(
            "SELECT actor FROM events WHERE event_type = 'workflow_execution.completed'"
        ).fetchall()
        assert event == ("cost-agent",)


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_an_error_is_raised_as_it_is_where_the_server_is_gone(own_server, kind):
    async with recorder(kind, own_server.url()) as rec:
        with connect(own_server.url()) as conn:
            made = Made(conn, own_server.url())
        with pytest.raises(OSError, match="mine") as raised:
            async with (
                rec.record_workflow(
                    **made.of,
                    workflow_type=WorkflowType.COST_ANALYSIS,
                    steps=["a"],
                    give_up_seconds=0.3,
                ) as run,
                run.step("a"),
            ):
                own_server.stop()
                raise OSError("mine")
        assert ["could not be recorded" in note for note in raised.value.__notes__] == [True] * 2
        with pytest.raises(ConnectionLost):
            async with rec.record_workflow(**made.of, workflow_type=WorkflowType.COST_ANALYSIS):
                pass


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_server_that_stays_away_fails_the_step(own_server, kind):
    async with recorder(kind, own_server.url()) as rec:
        with connect(own_server.url()) as conn:
            made = Made(conn, own_server.url())
        with pytest.raises(DatabaseUnreachable):
            async with (
                rec.record_workflow(
                    **made.of,
                    workflow_type=WorkflowType.COST_ANALYSIS,
                    steps=["a"],
                    give_up_seconds=0.3,
                ) as run,
                run.step("a"),
            ):
                own_server.stop()


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_terminated_backends_do_no_harm(made, kind):
    """Whichever statement loses its connection, the run is recorded once and whole."""
    stop = threading.Event()
    terminated = 0

    def terminate():
        nonlocal terminated
        with connect(made.url) as conn:
            while not stop.wait(random.uniform(0.002, 0.04)):
                terminated += len(
                    conn.execute(
                        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                        "WHERE application_name = 'victim'"
                    ).fetchall()
                )

    url = f"{made.url}&application_name=victim"
    killer = threading.Thread(target=terminate)
    recorded = 0
    killer.start()
    try:
        for _ in range(12):
            # One whose first connection is lost at once was not begun.
            with suppress(DatabaseUnreachable, ConnectionLost):
                async with recorder(kind, url) as rec:
                    options = {**made.of, "workflow_type": WorkflowType.COST_ANALYSIS}
                    async with rec.record_workflow(
                        **options, steps=["a", "b"], give_up_seconds=30
                    ) as run:
                        for name in ("a", "b"):
                            async with run.step(name) as step:
                                step.output_data = name
                recorded += 1
    finally:
        stop.set()
        killer.join()

    assert terminated > 5
    runs = made.runs()
    assert 0 < recorded <= len(runs)
    for row in runs:
        assert made.steps(row.id) == [("a", "completed"), ("b", "completed")]


def test_the_thread_ends_with_the_block_though_the_server_does_not_answer(made):
    with workflows.record_workflow(
        made.conn,
        **made.of,
        workflow_type=WorkflowType.COST_ANALYSIS,
        heartbeat_seconds=0.05,
    ):
        backend = None
        while backend is None:
            time.sleep(0.05)
            backend = made.conn.execute(
                "SELECT pid FROM pg_stat_activity WHERE query LIKE '%heartbeat_workflow_exec%'"
                "AND pid != pg_backend_pid()"
            ).fetchone()
        os.kill(backend[0], signal.SIGSTOP)
        time.sleep(0.2)  # it sends one that nobody answers
        threading.Timer(4, os.kill, [backend[0], signal.SIGCONT]).start()
    assert [thread for thread in threading.enumerate() if "heartbeats" in thread.name] == []
