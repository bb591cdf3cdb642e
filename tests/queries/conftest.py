"""`db` runs each test of the queries twice: on the functions and on their asynchronous twins."""

import asyncio

import pytest

from optiinfra_db import connect_async

from .database import Database


@pytest.fixture(params=["sync", "async"])
def db(request, shared_database_url, conn):
    if request.param == "sync":
        yield Database("", lambda function, **kwargs: function(conn, **kwargs), conn.execute)
        return
    with asyncio.Runner() as runner:
        aconn = runner.run(connect_async(shared_database_url))
        runner.run(aconn.set_autocommit(False))

        async def rows_of(sql, params=None):
            cursor = await aconn.execute(sql, params)
            return await cursor.fetchall() if cursor.description else None

        yield Database(
            ".aio",
            lambda function, **kwargs: runner.run(function(aconn, **kwargs)),
            lambda sql, params=None: runner.run(rows_of(sql, params)),
        )
        runner.run(aconn.rollback())
        runner.run(aconn.close())
