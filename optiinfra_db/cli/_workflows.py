"""The commands on runs: optiinfra-db workflows."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from psycopg import Connection

from optiinfra_db import _words
from optiinfra_db.cli._shared import (
    AsJson,
    By,
    Column,
    CustomerOption,
    Limit,
    Refused,
    Url,
    Utc,
    WorkflowId,
    Yes,
    actor,
    choices,
    confirm,
    customer_id,
    find_agent,
    find_customer,
    find_workflow,
    group,
    messages,
    need_terminal,
    output,
    print_json,
    print_table,
    show,
    status_text,
    when,
    write_page,
)
from optiinfra_db.connection import acting, connect
from optiinfra_db.errors import InvalidSpec, InvalidValue
from optiinfra_db.generated.models import WorkflowStatus, WorkflowType

if TYPE_CHECKING:
    from optiinfra_db.payloads import WorkflowRecord
    from optiinfra_db.shapes import WorkflowLine

app = group("workflows", "Look at runs, and act on them.")


@app.command("list", epilog="Example: optiinfra-db workflows list --status failed --customer atlas")
def list_workflows(
    url: Url = None,
    customer: CustomerOption = None,
    status: Annotated[
        WorkflowStatus | None,
        typer.Option(
            metavar="STATUS",
            help=f"Only those in this state: {choices(WorkflowStatus)}.",
            show_default=False,
        ),
    ] = None,
    workflow_type: Annotated[
        WorkflowType | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help=f"Only those of this type: {choices(WorkflowType)}.",
            show_default=False,
        ),
    ] = None,
    agent: Annotated[
        str | None,
        typer.Option(metavar="AGENT", help="Only those of this agent: its id or name."),
    ] = None,
    limit: Limit = 20,
    utc: Utc = False,
    as_json: AsJson = False,
) -> None:
    """List the newest runs."""
    from optiinfra_db.generated import workflow_executions
    from optiinfra_db.shapes import WorkflowLine

    with connect(url) as conn:
        of = customer_id(conn, customer)
        if status or workflow_type or agent:
            rows = workflow_executions.list_recent_workflows_by(
                conn,
                customer_id=of,
                agent_id=find_agent(conn, agent).id if agent else None,
                status=status,
                workflow_type=workflow_type,
                max_rows=limit,
            )
        else:
            rows = workflow_executions.list_recent_workflows(conn, customer_id=of, max_rows=limit)
    lines = [WorkflowLine.of(row) for row in rows]
    if as_json:
        print_json(lines)
        return
    ids = _words.short_ids([line.id for line in lines])
    print_table(
        [
            Column("run"),
            Column("type", 2),
            Column("status"),
            Column("steps", 1, right=True),
            Column("took", 3, right=True),
            Column("created", 6, right=True),
            Column("customer", 5, least=12),
            Column("agent", 7, least=10),
            Column("at", 4, least=16),
        ],
        [
            (
                ids[line.id],
                line.workflow_type,
                status_text(line.status),
                f"{line.steps_done}/{line.steps_total}",
                _words.duration(line.duration_seconds),
                when(line.created_at, utc=utc),
                line.customer,
                line.agent + (f" #{line.attempt}" if line.attempt > 1 else ""),
                _place(line),
            )
            for line in lines
        ],
        empty="No run fits. Record one: optiinfra-db demo",
    )


def _place(line: "WorkflowLine") -> str:
    """Say which step a run is at, or failed in."""
    if line.failed_step and line.status in {WorkflowStatus.FAILED, WorkflowStatus.TIMEOUT}:
        error = " ".join((line.error or "").split())
        return f"{line.failed_step}: {error[:60]}" if error else line.failed_step
    return line.current_step or ""


@app.command("show", epilog="Example: optiinfra-db workflows show 01941f29-7c00 --html run.html")
def show_workflow(
    run: WorkflowId,
    url: Url = None,
    customer: CustomerOption = None,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write it as a page; - for stdout.", show_default=False),
    ] = None,
    utc: Utc = False,
    as_json: AsJson = False,
) -> None:
    """Show a run.

    Its time line, what went wrong, what it left, what to do next.
    """
    from optiinfra_db import shapes
    from optiinfra_db.cli._advice import advice
    from optiinfra_db.cli._show import run_panel

    with connect(url) as conn:
        found = shapes.load_workflow(conn, **find_workflow(conn, run, customer))
    if html:
        from optiinfra_db.pages import workflow_page

        write_page(html, workflow_page(found, advice=advice(found)))
    elif as_json:
        print_json(found)
    else:
        console = output()
        width = console.width if console.is_terminal else _PANEL_WIDTH
        show(run_panel(found, utc=utc, width=width), console)


_PANEL_WIDTH = 140


@app.command("watch", epilog="Example: optiinfra-db workflows watch --customer atlas")
def watch_workflows(
    url: Url = None,
    customer: CustomerOption = None,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, help="How often to look.")
    ] = 2,
    by: By = None,
    utc: Utc = False,
) -> None:
    """Watch the runs that are not over, and act on them.

    Keys: / to filter, a for all recent runs, Enter to open one, c to cancel, r to retry, q to quit.
    """
    from optiinfra_db.cli import _watch

    need_terminal("optiinfra-db workflows list --json")
    of = None
    if customer is not None:
        with connect(url) as conn:
            of = find_customer(conn, customer).id
    _watch.watch_workflows(url, customer_id=of, utc=utc, interval=interval, actor=actor(by))


@app.command("retry", epilog="Example: optiinfra-db workflows retry 01941f29-7c00 --from-step 2")
def retry_workflow(
    run: WorkflowId,
    url: Url = None,
    customer: CustomerOption = None,
    from_step: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=1,
            help="Do this step and all after it again, those that had completed too.",
            show_default="the first that did not complete",
        ),
    ] = None,
    by: By = None,
    yes: Yes = False,
) -> None:
    """Do a run again that did not complete, as a new run.

    One that failed, timed out or was cancelled. What had completed is carried over. Prints the id
    of the new run, which waits for its agent.
    """
    from optiinfra_db.generated import workflow_executions

    with connect(url) as conn:
        key = find_workflow(conn, run, customer)
        confirm(f"Retry run {key['id']}?", yes=yes)
        with acting(conn, actor(by)):
            made = workflow_executions.retry_workflow_execution(conn, **key, from_step=from_step)
        if made is None:
            found = workflow_executions.get_workflow_execution(conn, **key)
            raise Refused(
                f"Run {key['id']} is {found.status if found else 'gone'}: only one that failed, "
                "timed out or was cancelled can be retried."
            )
    print(made.id)
    print(f"Attempt {made.attempt} of it waits for its agent.", file=sys.stderr)


@app.command("cancel", epilog="Example: optiinfra-db workflows cancel 01941f29-7c00 --reason stale")
def cancel_workflow(
    run: WorkflowId,
    url: Url = None,
    customer: CustomerOption = None,
    reason: Annotated[
        str, typer.Option(metavar="TEXT", help="Why, for the history.")
    ] = "cancelled by an operator",
    by: By = None,
    yes: Yes = False,
) -> None:
    """Cancel a run that is not over. Its executor stops at its next step or heartbeat."""
    from optiinfra_db.generated import workflow_executions

    with connect(url) as conn:
        key = find_workflow(conn, run, customer)
        confirm(f"Cancel run {key['id']}?", yes=yes)
        with acting(conn, actor(by)):
            ended = workflow_executions.cancel_workflow_execution(conn, **key, reason=reason)
        if ended is None:
            found = workflow_executions.get_workflow_execution(conn, **key)
            raise Refused(f"Run {key['id']} is over: it is {found.status if found else 'gone'}.")
    print(f"cancelled {ended.id}")


_BATCH = 200


@app.command(
    "record",
    epilog="Example: optiinfra-db workflows record runs.json --customer atlas --agent cost-1",
)
def record_workflows(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="JSON: a run, or a list of runs; - for stdin.")
    ],
    customer: Annotated[
        str,
        typer.Option("--customer", "-c", metavar="CUSTOMER", help="Whose they are.", prompt=False),
    ],
    agent: Annotated[str, typer.Option(metavar="AGENT", help="Who did them: its id or name.")],
    url: Url = None,
    by: By = None,
    as_json: AsJson = False,
) -> None:
    """Record runs that happened elsewhere.

    With their steps and artifacts. All are checked before the first is written. Of a run with an
    id that is taken nothing is written: with ids, it can be repeated.
    """
    from rich.progress import track

    from optiinfra_db.generated import workflow_executions
    from optiinfra_db.payloads import dump
    from optiinfra_db.shapes import Recorded

    records = _read_records(file)

    def written(conn: Connection[Any]) -> Iterator[Recorded]:
        of, by_agent = find_customer(conn, customer), find_agent(conn, agent)
        batches = [records[at : at + _BATCH] for at in range(0, len(records), _BATCH)]
        for batch in track(batches, "Recording", console=messages(), transient=True):
            runs = [{**dump(record), "agent_id": str(by_agent.id)} for record in batch]
            with acting(conn, actor(by)):
                rows = workflow_executions.record_workflow_executions(
                    conn, customer_id=of.id, runs=runs
                )
            yield from map(Recorded.model_validate, rows)

    with connect(url) as conn:
        recorded = list(written(conn))
    if as_json:
        print_json(recorded)
        return
    for run in recorded:
        print(f"{'recorded' if run.is_new else 'was there'} {run.id}")


def _read_records(file: Path) -> list["WorkflowRecord"]:
    """Read runs from a file. Raises InvalidSpec, which names each field that is wrong."""
    from optiinfra_db.payloads import WorkflowRecord, parse, parse_json

    name = "stdin" if str(file) == "-" else str(file)
    text = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidSpec(f"{name} is no JSON: {error}") from None
    try:
        if not isinstance(value, list):
            return [parse_json(WorkflowRecord, text)]
        return [parse(WorkflowRecord, one) for one in value]
    except InvalidValue as error:
        raise InvalidSpec(f"{name}: {error}") from error


@app.command("diff", epilog="Example: optiinfra-db workflows diff 01941f29-7c00 0194a3b1-0d2f")
def diff_workflows(
    a: Annotated[str, typer.Argument(metavar="RUN", help="The id of a run, or its beginning.")],
    b: Annotated[str, typer.Argument(metavar="RUN", help="The id of the other.")],
    url: Url = None,
    customer: CustomerOption = None,
    as_json: AsJson = False,
) -> None:
    """Show in what two runs differ.

    Their steps and times, what went in and what came out.
    """
    from optiinfra_db import shapes
    from optiinfra_db.cli._diff import compare

    with connect(url) as conn:
        one, other = (
            shapes.load_workflow(conn, **find_workflow(conn, text, customer)) for text in (a, b)
        )
    found = compare(one, other)
    if as_json:
        print_json(found)
        return
    print_table(
        [
            Column("step"),
            Column("a"),
            Column("b"),
            Column("a took", 1, right=True),
            Column("b took", 1, right=True),
            Column("b to a", 2, right=True),
        ],
        [
            (
                pair.step_name,
                status_text(pair.a_status or "-"),
                status_text(pair.b_status or "-"),
                _words.duration(pair.a_seconds),
                _words.duration(pair.b_seconds),
                f"{pair.b_seconds / pair.a_seconds:.2f}x"
                if pair.a_seconds and pair.b_seconds
                else "",
            )
            for pair in found.steps
        ],
        empty="Neither has steps.",
    )
    print()
    print_table(
        [
            Column("different", least=30, fold=True),
            Column("a", least=20, fold=True),
            Column("b", least=20, fold=True),
        ],
        [
            (difference.path, _value(difference.a), _value(difference.b))
            for difference in found.differences
        ],
        empty="Beside their times, they do not differ.",
    )


_MAX_VALUE = 200


def _value(value: Any) -> str:  # noqa: ANN401 -- any JSON
    if value is None:
        return "-"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _MAX_VALUE else f"{text[:_MAX_VALUE]}…"
