"""What the guide shows of replicas and fail-over works; test_logical.py has the rest of it."""

import os
import re
import subprocess
from pathlib import Path

from optiinfra_db import connect
from optiinfra_db.generated import customers
from optiinfra_db.seed import ATLAS

from .servers import eventually, no_server_yet, run_as_owner, seeded_server, start, url_of

GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "replication.md"
COPY, READ, WAIT_FOR_REPLICAS, PROMOTE, *_ = re.findall(
    r"^```(?:console|python)\n(.*?)^```", GUIDE.read_text(), re.S | re.M
)


def test_a_replica_is_made_read_from_waited_for_and_promoted(pg, monkeypatch, capsys, caplog):
    with seeded_server(pg) as primary, no_server_yet(primary.bin_dir, owner=primary) as replica:
        monkeypatch.setenv("PRIMARY_URL", primary.url())
        monkeypatch.setenv("REPLICA_URL", replica.url())
        monkeypatch.setenv("PATH", f"{primary.bin_dir}{os.pathsep}{os.environ['PATH']}")
        run_as_owner(replica, "bash", "-euc", COPY, REPLICA_DATA=replica.pgdata)
        start(replica)

        names: dict = {"__name__": "guide"}
        exec(compile(READ, "guide", "exec"), names)
        assert names["conn"].info.host == str(replica.socket_dir)
        names["connections"].close()
        assert capsys.readouterr().out == "report.ordered\n"
        assert caplog.records == []

        def psql(text):
            subprocess.run(["bash", "-euc", text], check=True, stdout=subprocess.DEVNULL)

        psql(WAIT_FOR_REPLICAS)
        with connect(primary.url()) as conn:
            state = "SELECT sync_state FROM pg_stat_replication"
            eventually(lambda: conn.execute(state).fetchone() == ("quorum",))
        primary.stop()
        psql(PROMOTE)
        with connect(url_of(primary, replica, target_session_attrs="read-write")) as conn:
            assert conn.info.host == str(replica.socket_dir)
            assert customers.get_customer(conn, id=ATLAS)
