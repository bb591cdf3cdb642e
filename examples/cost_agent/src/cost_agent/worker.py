"""The process: works off the runs that wait for the agent."""

import argparse
import time
from uuid import UUID

from cost_agent.analysis import analyze_costs
from optiinfra_db import OptiInfraError, connect
from optiinfra_db.seed import ATLAS, COST
from optiinfra_db.workflows import claim_workflow


def work_once(agent_id: UUID, *, url: str | None = None, store: str = "artifacts") -> bool:
    """Do the run that waits longest; return whether there was one.

    It connects anew for each: a connection that was lost in one run is no trouble in the next.
    """
    with connect(url, actor="cost-agent") as conn:
        with claim_workflow(conn, agent_id=agent_id, requeue=1, store=store) as run:
            if run is None:
                return False
            print(f"run {run.id}, attempt {run.attempt}: {analyze_costs.execute(run)}")
        return True


def main() -> None:
    """Work until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent", type=UUID, default=COST, help="whose runs (the sample one's)")
    parser.add_argument("--store", default="artifacts", help="where reports go (artifacts)")
    parser.add_argument("--enqueue", action="store_true", help="first, put a run into the queue")
    parser.add_argument("--once", action="store_true", help="end when no run waits any more")
    arguments = parser.parse_args()
    if arguments.enqueue:
        with connect(actor="scheduler") as conn:
            analyze_costs.enqueue(conn, customer_id=ATLAS, agent_id=arguments.agent)
    while True:
        try:
            was_there = work_once(arguments.agent, store=arguments.store)
        except KeyboardInterrupt:  # the run is cancelled, and can be resumed
            return
        except OptiInfraError:  # of the database or the store: who started the agent sees to it
            raise
        except Exception as error:  # recorded with its run, and put back to the queue once
            print(f"failed: {error}")
            was_there = False
        if not was_there:
            if arguments.once:
                return
            time.sleep(1)


if __name__ == "__main__":
    main()
