"""The commands on customers: optiinfra-db customers."""

from optiinfra_db.cli._shared import (
    AsJson,
    Column,
    Limit,
    Url,
    Utc,
    group,
    print_json,
    print_table,
    when,
)
from optiinfra_db.connection import connect

app = group("customers", "Look at customers.")


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
