"""What row-level security costs a read, and what a block of a tenant does.

"owner" is a superuser, for whom there is no row-level security; "service" a member of
optiinfra_service, who sees all rows; "tenant" a member of optiinfra_tenant, who sees those of one
customer: the same call on a connection each. "tenant block" is the call in a block of
optiinfra_db.tenant on the owner's connection, with the BEGIN and COMMIT that this is.

All read the same rows, of which there is a million bytes or so. This process and the server are
kept on a core each.
"""

import contextlib
import random
from collections.abc import Callable

import psycopg

from bench import imports
from bench.harness import Bench
from optiinfra_db import connect, tenant
from optiinfra_db.generated import workflow_executions

RUNS = 300


def measure(bench: Bench) -> None:
    """Time reads of a run, and of a page of runs."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(bench.apart())
        target = stack.enter_context(imports.targeting(bench))
        customer_id = target.platform.customer_id
        runs = [imports.finished() for _ in range(RUNS)]
        imports.record(target, runs)
        target.conn.execute("ANALYZE")

        def connected(role: str) -> psycopg.Connection[tuple[object, ...]]:
            conn = stack.enter_context(connect(target.url, customer_id=customer_id))
            conn.execute("SELECT set_config('role', %s, false)", [role])
            return conn

        owner = connected("none")
        service, as_tenant = connected("optiinfra_service"), connected("optiinfra_tenant")

        def get(conn: psycopg.Connection[tuple[object, ...]]) -> object:
            return workflow_executions.get_workflow_execution(
                conn, customer_id=customer_id, id=random.choice(runs).id
            )

        def page(conn: psycopg.Connection[tuple[object, ...]]) -> object:
            return workflow_executions.list_workflow_executions(
                conn, customer_id=customer_id, max_rows=50, before_id=random.choice(runs).id
            )

        def calls(
            read: Callable[[psycopg.Connection[tuple[object, ...]]], object],
            conn: psycopg.Connection[tuple[object, ...]],
            *,
            in_block: bool = False,
        ) -> Callable[[], None]:
            def each() -> None:
                for _ in range(bench.scale.calls):
                    with tenant(conn, customer_id) if in_block else contextlib.nullcontext():
                        if not read(conn):
                            raise RuntimeError("nothing was read")

            return each

        for name, read in (("get a run", get), ("list 50 runs", page)):
            bench.compare(
                f"access: {name}",
                {
                    "owner": calls(read, owner),
                    "service": calls(read, service),
                    "tenant": calls(read, as_tenant),
                    "tenant block": calls(read, owner, in_block=True),
                },
                per=bench.scale.calls,
            )
