"""The commands on customers: optiinfra-db customers."""

import sys
from datetime import timedelta
from typing import Annotated

import typer

from optiinfra_db.cli._shared import (
    AsJson,
    Column,
    CustomerName,
    Limit,
    Refused,
    Url,
    Utc,
    Yes,
    confirm,
    duration,
    find_api_key,
    find_customer,
    group,
    print_json,
    print_table,
    status_text,
    when,
)
from optiinfra_db.connection import connect

app = group("customers", "Look at customers, and manage their API keys.")


@app.command("list", epilog="Example: optiinfra-db customers list")
def list_customers(
    url: Url = None, limit: Limit = 100, utc: Utc = False, as_json: AsJson = False
) -> None:
    """List the newest customers."""
    from optiinfra_db.generated import customers
    from optiinfra_db.shapes import CustomerLine

    with connect(url) as conn:
        found = customers.list_customers(conn, max_rows=limit)
    if as_json:
        print_json([CustomerLine.model_validate(row) for row in found])
        return
    print_table(
        [
            Column("customer"),
            Column("name", least=20),
            Column("plan", 1),
            Column("status", 2),
            Column("since", 3, right=True),
            Column("email", 1, least=20),
        ],
        [
            (
                str(row.id),
                row.name,
                row.plan,
                row.status,
                when(row.created_at, utc=utc),
                row.email,
            )
            for row in found
        ],
        empty="There are no customers. Make some: optiinfra-db seed",
    )


@app.command("keys", epilog="Example: optiinfra-db customers keys atlas")
def list_keys(
    customer: CustomerName, url: Url = None, utc: Utc = False, as_json: AsJson = False
) -> None:
    """List the API keys of a customer, with when each was used."""
    from optiinfra_db.generated import api_keys
    from optiinfra_db.shapes import ApiKeyLine

    with connect(url) as conn:
        found = api_keys.list_api_keys(conn, customer_id=find_customer(conn, customer).id)
    lines = [ApiKeyLine.of(row) for row in found]
    if as_json:
        print_json(lines)
        return
    print_table(
        [
            Column("key"),
            Column("status"),
            Column("last used", 1, right=True),
            Column("expires", 2, right=True),
            Column("made", 3, right=True),
        ],
        [
            (
                str(line.id),
                status_text(line.status),
                when(line.last_used_at, utc=utc),
                when(line.expires_at, utc=utc),
                when(line.created_at, utc=utc),
            )
            for line in lines
        ],
        empty="The customer has no key. Make one: optiinfra-db customers rotate-key",
    )


@app.command("rotate-key", epilog="Example: optiinfra-db customers rotate-key atlas --overlap 7d")
def rotate_key(
    customer: CustomerName,
    url: Url = None,
    overlap: Annotated[
        timedelta,
        typer.Option(
            parser=duration,
            metavar="TIME",
            help="How long the other keys stay valid: 0s, 24h, 7d; a year at most.",
        ),
    ] = "24h",  # type: ignore[assignment]  # it is parsed
    yes: Yes = False,
) -> None:
    """Give a customer a new API key, and let the others expire.

    The key is printed this once, and stored nowhere.
    """
    from optiinfra_db import api_keys

    with connect(url) as conn:
        found = find_customer(conn, customer)
        confirm(f"Let the other keys of {found.name!r} expire?", yes=yes)
        new = api_keys.rotate(conn, customer_id=found.id, overlap=overlap)
    print(new.key.get_secret_value())
    print(
        f"The key {new.row.id} of {found.name!r}. Keep it: it is not shown again.", file=sys.stderr
    )


@app.command("revoke-key", epilog="Example: optiinfra-db customers revoke-key atlas 01941f29-7c00")
def revoke_key(
    customer: CustomerName,
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="The id of a key, or the beginning of it.")
    ],
    url: Url = None,
    yes: Yes = False,
) -> None:
    """Make an API key invalid, at once and for good."""
    from optiinfra_db.generated import api_keys

    with connect(url) as conn:
        found = find_customer(conn, customer)
        found_key = find_api_key(conn, key, found)
        confirm(f"Revoke the key {found_key.id} of {found.name!r}?", yes=yes)
        if not api_keys.revoke_api_key(conn, customer_id=found.id, id=found_key.id):
            raise Refused(f"The key {found_key.id} is revoked already.")
    print(f"revoked {found_key.id}")
