"""The commands on agents: optiinfra-db agents."""

import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optiinfra_db import _words
from optiinfra_db.cli._shared import (
    AsJson,
    By,
    Column,
    Url,
    Utc,
    Yes,
    actor,
    choices,
    confirm,
    duration,
    every_agent,
    group,
    need_terminal,
    print_json,
    print_table,
    status_text,
)
from optiinfra_db.connection import acting, connect
from optiinfra_db.generated.models import AgentStatus, AgentType

if TYPE_CHECKING:
    from psycopg import Connection

    from optiinfra_db.shapes import AgentLine

app = group("agents", "Look at agents, and find those that went silent.")


@app.command("list", epilog="Example: optiinfra-db agents list --type cost")
def list_agents(
    url: Url = None,
    agent_type: Annotated[
        AgentType | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help=f"Only those of this type: {choices(AgentType)}.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the agents, with what they run and what waits."""
    with connect(url) as conn:
        lines = [line for line in _load(conn) if agent_type in (None, line.type)]
    if as_json:
        print_json(lines)
    else:
        _print(lines, empty="There are no agents.")


@app.command("watch", epilog="Example: optiinfra-db agents watch")
def watch_agents(
    url: Url = None,
    interval: Annotated[
        float, typer.Option(metavar="SECONDS", min=0.2, help="How often to look.")
    ] = 2,
    utc: Utc = False,
) -> None:
    """Watch the agents, live. Keys: / to filter, q to quit."""
    from optiinfra_db.cli import _watch

    need_terminal("optiinfra-db agents list --json")
    _watch.watch_agents(url, utc=utc, interval=interval)


@app.command("stale", epilog="Example: optiinfra-db agents stale --silent-for 10m --fail")
def stale_agents(
    url: Url = None,
    silent_for: Annotated[
        timedelta,
        typer.Option(
            parser=duration, metavar="DURATION", help="How long without a word: 90s, 5m, 2h."
        ),
    ] = "5m",  # type: ignore[assignment]  # it is parsed
    fail: Annotated[bool, typer.Option("--fail", help="Set them to failed.")] = False,
    by: By = None,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """List the agents that went silent.

    Those that failed or stopped already are not listed. With --fail, set them to failed. The exit
    code is 6 if there are any.
    """
    from optiinfra_db.generated import agents

    cutoff = datetime.now(UTC) - silent_for
    over = {AgentStatus.FAILED, AgentStatus.STOPPED}
    with connect(url) as conn:
        silent = {
            agent.id
            for agent in every_agent(conn)
            if agent.status not in over and (agent.last_heartbeat or agent.created_at) < cutoff
        }
        lines = [line for line in _load(conn) if line.id in silent]
        if as_json:
            print_json(lines)
        else:
            _print(lines, empty=f"No agent was silent for {_words.duration(silent_for)}.")
        if fail and lines:
            confirm(f"Set these {len(lines)} agents to failed?", yes=yes)
            with acting(conn, actor(by)):
                failed = agents.fail_stale_agents(conn, cutoff=cutoff, max_rows=len(lines))
            print(f"Set {len(failed)} agents to failed.", file=sys.stderr)
    if lines:
        raise typer.Exit(6)


def _load(conn: "Connection[Any]") -> list["AgentLine"]:
    from optiinfra_db.generated import monitoring
    from optiinfra_db.shapes import AgentLine

    return [AgentLine.of(row) for row in monitoring.list_agent_workload(conn)]


def _print(lines: list["AgentLine"], *, empty: str) -> None:
    print_table(
        [
            Column("agent", least=12),
            Column("type", 1),
            Column("status"),
            Column("silent for", 2, right=True),
            Column("running", 3, right=True),
            Column("waiting", 4, right=True),
            Column("oldest", 6, right=True),
            Column("last hour", 5, right=True),
            Column("failed", 5, right=True),
            Column("activity", 7),
            Column("id", 8),
        ],
        [
            (
                line.name,
                line.type,
                status_text(line.status),
                "never heard"
                if line.silent_seconds is None
                else _words.duration(line.silent_seconds),
                str(line.running),
                str(line.pending),
                _words.duration(line.oldest_pending_seconds),
                str(line.ended_last_hour),
                str(line.failed_last_hour),
                line.activity or "",
                str(line.id),
            )
            for line in lines
        ],
        empty=empty,
    )
