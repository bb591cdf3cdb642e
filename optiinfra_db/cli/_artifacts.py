"""The commands on artifacts: optiinfra-db artifacts."""

import sys
from collections.abc import Iterable
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any

import typer

from optiinfra_db import _words
from optiinfra_db.cli._shared import (
    AsJson,
    Column,
    CustomerOption,
    Limit,
    Url,
    Utc,
    choices,
    duration,
    find_customer,
    find_workflow,
    group,
    messages,
    print_json,
    print_table,
    when,
)
from optiinfra_db.connection import connect
from optiinfra_db.generated.models import ArtifactType

if TYPE_CHECKING:
    from psycopg import Connection

    from optiinfra_db.generated.models import WorkflowArtifact

app = group("artifacts", "Look at what runs left, and see that it is all there.")

RunArgument = Annotated[
    str | None,
    typer.Argument(metavar="[RUN]", help="The id of a run, or the beginning of it."),
]


@app.command("list", epilog="Example: optiinfra-db artifacts list --customer atlas --type report")
def list_artifacts(
    run: RunArgument = None,
    url: Url = None,
    customer: CustomerOption = None,
    artifact_type: Annotated[
        ArtifactType | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help=f"Only those of this type: {choices(ArtifactType)}.",
            show_default=False,
        ),
    ] = None,
    limit: Limit = 50,
    utc: Utc = False,
    as_json: AsJson = False,
) -> None:
    """List the artifacts of a run, or of a customer."""
    from optiinfra_db.shapes import Artifact

    with connect(url) as conn:
        found = list(islice(_artifacts(conn, run, customer, artifact_type), limit))
    if as_json:
        print_json([Artifact.of(artifact) for artifact in found])
        return
    print_table(
        [
            Column("artifact", least=20),
            Column("type", 1),
            Column("size", 2, right=True),
            Column("created", 3, right=True),
            Column("path", 4, least=30),
            Column("sha256", 6),
            Column("run", 5),
        ],
        [
            (
                artifact.artifact_name,
                artifact.artifact_type,
                _words.size(artifact.artifact_size_bytes),
                when(artifact.created_at, utc=utc),
                artifact.artifact_path,
                artifact.sha256.hex()[:12],
                str(artifact.workflow_execution_id),
            )
            for artifact in found
        ],
        empty="There are no artifacts.",
    )


@app.command("verify", epilog="Example: optiinfra-db artifacts verify 01941f29-7c00")
def verify_artifacts(
    run: RunArgument = None,
    url: Url = None,
    customer: CustomerOption = None,
    as_json: AsJson = False,
) -> None:
    """Compare the content of artifacts to their rows.

    Of a run, or of a customer. The exit code is 6 if anything is missing or different.
    """
    from rich.progress import track

    from optiinfra_db.artifacts import check_artifacts
    from optiinfra_db.shapes import ArtifactCheck

    with connect(url) as conn:
        found = list(_artifacts(conn, run, customer))
    checks = [
        ArtifactCheck.of(check)
        for check in track(
            check_artifacts(found),
            "Reading",
            total=len(found),
            console=messages(),
            transient=True,
            disable=not sys.stderr.isatty(),
        )
    ]
    wrong = [check for check in checks if check.problem]
    if as_json:
        print_json(checks)
    else:
        for check in wrong:
            print(f"{check.problem}: {_words.one_line(check.detail)}")
        size = _words.size(sum(artifact.artifact_size_bytes for artifact in found))
        print(
            f"{len(wrong)} of {len(checks)} artifacts ({size}) are missing, wrong or unreadable."
            if wrong
            else f"All {len(checks)} artifacts ({size}) are what their rows say.",
            file=sys.stderr,
        )
    if wrong:
        raise typer.Exit(6)


@app.command(
    "orphans", epilog="Example: optiinfra-db artifacts orphans s3://reports --customer atlas"
)
def find_orphans(
    directory: Annotated[
        str, typer.Argument(metavar="STORE", help="The folder or URL where artifacts are stored.")
    ],
    customer: Annotated[
        str, typer.Option("--customer", "-c", metavar="CUSTOMER", help="Whose artifacts.")
    ],
    url: Url = None,
    older_than: Annotated[
        timedelta,
        typer.Option(
            parser=duration,
            metavar="DURATION",
            help="Leave out what is younger, which may be about to get its row.",
        ),
    ] = "1h",  # type: ignore[assignment]  # it is parsed
    as_json: AsJson = False,
) -> None:
    """List rows without content, and content without rows.

    Changes nothing. The exit code is 6 if there is any.
    """
    from optiinfra_db import artifacts
    from optiinfra_db.shapes import Orphans

    with connect(url) as conn, messages().status("Looking"):
        found = artifacts.find_orphans(
            conn,
            customer_id=find_customer(conn, customer).id,
            directory=directory,
            older_than=older_than,
        )
    if as_json:
        print_json(Orphans.of(found))
    else:
        for row in found.rows:
            path = _words.one_line(row.artifact_path)
            print(f"no content {path} of run {row.workflow_execution_id}")
        for path in found.contents:
            print(f"no row {_words.one_line(path)}")
        for check in found.unreadable:
            print(f"unreadable {_words.one_line(check.detail)}")
    if found.rows or found.contents or found.unreadable:
        raise typer.Exit(6)
    print("There are no orphans.", file=sys.stderr)


def _artifacts(
    conn: "Connection[Any]",
    run: str | None,
    customer: str | None,
    artifact_type: ArtifactType | None = None,
) -> Iterable["WorkflowArtifact"]:
    """Return the artifacts of a run, or of a customer, of a type where one is given."""
    from optiinfra_db.artifacts import iterate_artifacts
    from optiinfra_db.generated import workflow_artifacts

    if run is not None:
        key = find_workflow(conn, run, customer)
        of_run = workflow_artifacts.list_workflow_artifacts(
            conn, customer_id=key["customer_id"], workflow_execution_id=key["id"]
        )
        return [one for one in of_run if artifact_type in (None, one.artifact_type)]
    if customer is None:
        raise typer.BadParameter("name a run, or a customer with --customer.")
    of = find_customer(conn, customer).id
    return iterate_artifacts(conn, customer_id=of, artifact_type=artifact_type)
