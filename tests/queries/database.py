"""A handle on all query functions, synchronous or not, and makers of rows for tests.

`db.customers.get_customer(id=...)` calls `generated.customers.get_customer` on the test's
connection, or awaits `generated.aio.customers.get_customer` on an asynchronous one.
"""

import hashlib
import importlib
from contextlib import contextmanager
from itertools import count
from types import SimpleNamespace

import psycopg
import pytest

from optiinfra_db.errors import DatabaseError, translate
from optiinfra_db.generated.models import AgentType, ArtifactType, WorkflowType

ZERO_DIGEST = hashlib.sha256(b"").digest()


class Database:
    """The generated functions, bound to a connection."""

    def __init__(self, package, call, execute):
        self._package = package
        self._call = call
        self.execute = execute
        self._numbers = count(1)
        self.functions = {}

    def __getattr__(self, noun):
        module = importlib.import_module(f"optiinfra_db.generated{self._package}.{noun}")
        names = [name for name in module.__all__ if name.islower()]
        self.functions |= {(noun, name): getattr(module, name) for name in names}
        return SimpleNamespace(**{name: self._bind(getattr(module, name)) for name in names})

    def _bind(self, function):
        def bound(*args, **kwargs):
            try:
                return self._call(function, *args, **kwargs)
            except psycopg.Error as error:
                if translate(error):
                    pytest.fail(f"{function.__name__} raised psycopg's {error!r}")
                raise

        return bound

    @contextmanager
    def refused(self, error, constraint=None):
        """Expect an error, by constraint where it is one's, and that nothing else is disturbed.

        `error` is the typed one, or the class of psycopg's that it is raised from; what was raised
        is then the `value` of what this yields.
        """
        self.execute("SAVEPOINT refused")
        with pytest.raises((DatabaseError, psycopg.Error)) as caught:
            yield caught
        self.execute("ROLLBACK TO SAVEPOINT refused")
        assert isinstance(caught.value, error) or isinstance(caught.value.__cause__, error)
        if constraint is not None:
            cause = caught.value.__cause__ or caught.value  # the latter from SQL without a function
            assert cause.diag.constraint_name == constraint

    def make_customer(self, **given):
        number = next(self._numbers)
        values = {
            "name": f"Customer {number}",
            "email": f"customer-{number}@example.com",
            "api_key_hash": hashlib.sha256(b"%d" % number).digest(),
        }
        return self.customers.create_customer(**values | given)

    def make_agent(self, **given):
        values = {"type": AgentType.COST, "name": f"cost-{next(self._numbers)}", "version": "1.0"}
        return self.agents.upsert_agent(**values | given)

    def make_run(self, customer=None, agent=None, **given):
        values = {
            "customer_id": (customer or self.make_customer()).id,
            "agent_id": (agent or self.make_agent()).id,
            "workflow_type": WorkflowType.COST_ANALYSIS,
            "step_names": ["collect", "analyze", "report"],
        }
        return self.workflow_executions.create_workflow_execution(**values | given)

    def start_run(self, run):
        return self.workflow_executions.start_workflow_execution(
            customer_id=run.customer_id, id=run.id
        )

    def steps_of(self, run):
        return self.workflow_steps.list_workflow_steps(
            customer_id=run.customer_id, workflow_execution_id=run.id
        )

    def make_artifact(self, run, step=None, **given):
        values = {
            "customer_id": run.customer_id,
            "workflow_execution_id": run.id,
            "workflow_step_id": step and step.id,
            "artifact_type": ArtifactType.REPORT,
            "artifact_name": "Report",
            "artifact_path": f"s3://bucket/report-{next(self._numbers)}.pdf",
            "artifact_size_bytes": 1024,
            "content_type": "application/pdf",
            "sha256": ZERO_DIGEST,
        }
        return self.workflow_artifacts.register_workflow_artifact(**values | given)

    def artifacts_of(self, run):
        return self.workflow_artifacts.list_workflow_artifacts(
            customer_id=run.customer_id, workflow_execution_id=run.id
        )

    def make_recommendation(self, customer=None, agent=None, **given):
        values = {
            "customer_id": (customer or self.make_customer()).id,
            "agent_id": (agent or self.make_agent()).id,
            "type": "rightsize_gpu",
            "title": "Release idle GPUs",
        }
        return self.recommendations.create_recommendation(**values | given)


def key(row):
    """Return the key that tenant functions take."""
    return {"customer_id": row.customer_id, "id": row.id}


def step_key(step):
    """Return the key that the functions of steps and artifacts take."""
    return {
        "customer_id": step.customer_id,
        "workflow_execution_id": step.workflow_execution_id,
        "id": step.id,
    }


def run_attempt(run):
    """Return what the executor of a run says with each of its writes."""
    return key(run) | {"attempt": run.attempt}


def step_attempt(step):
    """Return what the executor of a step says with each of its writes."""
    return step_key(step) | {"retry_count": step.retry_count}


def artifact_left(**given):
    """Return an artifact as the functions that take a list of them have it."""
    values = {
        "artifact_type": "report",
        "artifact_name": "Report",
        "artifact_path": "s3://bucket/report.pdf",
        "artifact_size_bytes": 1024,
        "content_type": "application/pdf",
        "sha256": ZERO_DIGEST.hex(),
    }
    return values | given


def customers_in(result):
    """Find every customer_id in what a function returned."""
    if isinstance(result, list):
        return {found for item in result for found in customers_in(item)}
    names = getattr(type(result), "__slots__", ())
    found = {result.customer_id} if "customer_id" in names else set()
    for name in names:
        found |= customers_in(getattr(result, name))
    return found - {None}
