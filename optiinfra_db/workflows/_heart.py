"""The heartbeats of a run while it is recorded, and its deadline."""

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from math import inf
from time import monotonic

from optiinfra_db.errors import StaleWriter
from optiinfra_db.generated import workflow_executions

from ._recorder import Backend, Recorder, logger


async def keep_alive(
    recorder: Recorder, backend: Backend, stopped: Callable[[float], Awaitable[bool]]
) -> None:
    """Say that a run is alive, until somebody ends it, or time it out at its deadline.

    `stopped` waits so many seconds, and returns whether the block has ended meanwhile. Nothing here
    ends the run but its deadline: where the database cannot be reached, the next beat may.
    """
    run, interval = recorder.run, recorder.options.heartbeat_seconds
    key = {"customer_id": run.customer_id, "id": run.id}
    ids = {"customer_id": str(run.customer_id), "workflow_execution_id": str(run.id)}
    next_beat = monotonic() + interval
    deadline = inf
    if run.deadline_at is not None:
        left = run.deadline_at - datetime.now(UTC) - backend.session.clock_ahead
        deadline = monotonic() + left.total_seconds()
    while True:
        if await stopped(max(min(next_beat, deadline) - monotonic(), 0)):
            return
        is_beat, is_late = monotonic() >= next_beat, monotonic() >= deadline
        # Set before: where the database is away, the next attempt is as far as the next beat.
        next_beat = monotonic() + interval if is_beat else next_beat
        deadline = monotonic() + min(interval, 0.5) if is_late else deadline
        try:
            await backend.reconnect()
            time_out = workflow_executions.time_out_workflow_execution
            if is_late and await backend.query(time_out, **key) is not None:
                break
            beat = workflow_executions.heartbeat_workflow_execution
            if is_beat and await backend.query(beat, **key, attempt=run.attempt) is None:
                break
        except StaleWriter:
            break
        except Exception as error:
            extra = {"event": "heartbeat_failed", **ids}
            logger.warning("heartbeat of run %s failed: %s", run.id, error, extra=extra)
    recorder.is_over = True
    extra = {"event": "over", **ids}
    logger.warning("run %s was ended by somebody else, or by its deadline", run.id, extra=extra)
