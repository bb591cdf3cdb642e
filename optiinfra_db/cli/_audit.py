"""The commands on the proof of what happened: optiinfra-db seal, verify-audit, audit-bundle."""

import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from optiinfra_db import _words
from optiinfra_db.cli._shared import (
    AsJson,
    CustomerOption,
    Refused,
    Url,
    customer_id,
    find_customer,
    find_workflow,
    print_json,
    progress,
    time,
)
from optiinfra_db.connection import connect

app = typer.Typer()


@app.command(epilog="Example: optiinfra-db seal --json > heads.json")
def seal(url: Url = None, as_json: AsJson = False) -> None:
    """Seal the events that are not sealed yet.

    Of all customers; writers do not wait, and to interrupt it loses nothing. --json prints the
    heads, the last seal of each customer: keep them where nobody can change them.
    """
    from optiinfra_db import audit

    with connect(url) as conn, progress() as say:
        sealed = audit.seal(conn, say=say)
        heads = audit.heads(conn)
    if as_json:
        print_json(heads)
    print(
        f"Sealed {sealed.events:,} events of {len(heads):,} customers, in {sealed.seals:,} seals."
        if sealed.events
        else "Nothing to seal: every event that can be read from the feed is sealed.",
        file=sys.stderr,
    )


@app.command(
    "verify-audit", epilog="Example: optiinfra-db verify-audit --customer atlas --heads heads.json"
)
def verify_audit(
    url: Url = None,
    customer: CustomerOption = None,
    heads: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Heads that were kept, as seal --json prints them.",
            show_default=False,
        ),
    ] = None,
    kept_since: Annotated[
        datetime | None,
        typer.Option(
            parser=time,
            metavar="TIME",
            help="Events of before this may be gone, by retention.",
            show_default=False,
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the events to their seals.

    Names the first event of each seal that was changed or removed, and events that were inserted.
    The exit code is 6 if anything is found.
    """
    from optiinfra_db import audit
    from optiinfra_db.shapes import AuditDeviation

    try:
        known = [] if heads is None else audit.parse_heads(heads.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        problem = _words.one_line(f"{heads} cannot be read: {error}")
        raise typer.BadParameter(problem, param_hint="--heads") from None
    with connect(url) as conn, progress() as say:
        only = customer_id(conn, customer)
        there = [head for head in audit.heads(conn) if only in {None, head.customer_id}]
        found = audit.verify(
            conn, customer_id=only, known_heads=known, kept_since=kept_since, say=say
        )
    if as_json:
        print_json([AuditDeviation.model_validate(deviation) for deviation in found])
    else:
        for deviation in found:
            print(deviation)
    if found:
        print(
            "Somebody changed the audit log past its triggers: find out who can have, and compare "
            "with a backup of before. It cannot be mended, only explained.",
            file=sys.stderr,
        )
        raise typer.Exit(6)
    if not there:
        print("There are no seals. Make some: optiinfra-db seal", file=sys.stderr)
        return
    print(
        f"The events of {len(there):,} customers are as they were sealed."
        + ("" if heads else "\nWithout --heads, seals may have been made anew, or cut off."),
        file=sys.stderr,
    )


@app.command(
    "audit-bundle",
    epilog="Example: optiinfra-db audit-bundle --customer atlas --output atlas.jsonl.gz",
)
def audit_bundle(
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="FILE", dir_okay=False, help="Compressed if it ends with .gz."
        ),
    ],
    url: Url = None,
    customer: CustomerOption = None,
    run: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Only this run: its id, or the beginning of it.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Write the history of a customer or a run, with its proof.

    Into one file, that python verify_bundle.py verifies without this package or a database.
    """
    from optiinfra_db import audit, verify_bundle

    with connect(url) as conn, progress() as say:
        if run is not None:
            key = find_workflow(conn, run, customer)
            of, run_id = key["customer_id"], key["id"]
        elif customer is not None:
            of, run_id = find_customer(conn, customer).id, None
        else:
            raise typer.BadParameter("say of what: --customer, or --run", param_hint="--customer")
        try:
            bundle = audit.export_bundle(
                conn, output, customer_id=of, workflow_execution_id=run_id, say=say
            )
        except OSError as error:
            raise Refused(f"{output} cannot be written: {error.strerror}") from error
    file = _words.one_line(str(output))
    print(
        f"Wrote {file}: {bundle.events:,} events, {bundle.rows:,} rows, {bundle.seals:,} seals.\n"
        f"Verify it: python {verify_bundle.__file__} {file}",
        file=sys.stderr,
    )
