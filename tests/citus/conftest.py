"""A database on a Citus cluster, where OPTIINFRA_TEST_CITUS_URL names one.

It is the URL of a superuser on a database of the coordinator, in which the other servers were added
with citus_add_node. Each session makes databases of its own beside it, on every server.
"""

import os
from contextlib import contextmanager
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from optiinfra_db import connect
from optiinfra_db.distribute import distribute
from optiinfra_db.migrate import migrate

from ..plans import history
from ..plans.cases import Sample

URL = os.environ.get("OPTIINFRA_TEST_CITUS_URL")
SHARDS = 8
RUNS = 12_000


def pytest_collection_modifyitems(items):
    here = os.path.dirname(__file__)  # noqa: PTH120 -- as pytest has it
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker(pytest.mark.citus)
            if not URL:
                item.add_marker(
                    pytest.mark.skip(reason="OPTIINFRA_TEST_CITUS_URL names no Citus coordinator")
                )


@contextmanager
def cluster_database():
    """Make an empty database on every server of the cluster, with Citus and its servers."""
    name = f"test_{uuid4().hex}"
    with psycopg.connect(URL, autocommit=True) as conn:
        nodes = conn.execute(
            "SELECT nodename, nodeport, groupid FROM pg_dist_node ORDER BY groupid"
        ).fetchall()
    servers = [make_conninfo(URL, host=host, port=port) for host, port, _ in nodes]
    try:
        for server in servers:
            with psycopg.connect(server, autocommit=True) as conn:
                conn.execute(f"CREATE DATABASE {name}")
            with psycopg.connect(make_conninfo(server, dbname=name), autocommit=True) as conn:
                conn.execute("CREATE EXTENSION citus")
        url = urlunsplit(urlsplit(URL)._replace(path=f"/{name}"))
        with psycopg.connect(url, autocommit=True) as conn:
            for host, port, group in nodes:
                add = "citus_add_node" if group else "citus_set_coordinator_host"
                conn.execute(f"SELECT {add}(%s, %s)", [host, port])
            if conn.execute("SELECT to_regrole('optiinfra_owner') IS NULL").fetchone() == (True,):
                conn.execute("CREATE ROLE optiinfra_owner")
            conn.execute("ALTER ROLE optiinfra_owner LOGIN")  # as the guide has it
        yield url
    finally:
        for server in servers:
            with psycopg.connect(server, autocommit=True) as conn:
                conn.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture
def cluster_url():
    """Make an empty database of the test's own."""
    with cluster_database() as url:
        yield url


def live_in(url, runs):
    """Migrate an empty database, write a history, and distribute it."""
    migrate(url, say=lambda _: None)
    history.build(url, runs, days=60)
    distribute(url, shards=SHARDS, say=lambda _: None)


@pytest.fixture(scope="session")
def distributed_url():
    """Make a database with a history, distributed: tests add customers, and change no others."""
    with cluster_database() as url:
        live_in(url, RUNS)
        with connect(url) as conn:
            conn.execute("ANALYZE")
        yield url


@pytest.fixture
def conn(distributed_url):
    with connect(distributed_url) as conn:
        yield conn


@pytest.fixture
def sample(conn):
    return Sample(conn, "Customer 1")
