"""The peer that most would take: our tables, mapped with the ORM of SQLAlchemy 2, on psycopg 3.

The tables are those of the schema, so that the same constraints, triggers and server defaults work
for both. What is mapped is written as its documentation has it: annotated columns, values that the
server makes fetched with RETURNING, relationships loaded lazily unless a query says otherwise. Ids
are made by the client, since rows with ids that the server makes are inserted one a statement.
"""

import os
import time
from collections.abc import Iterable
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any
from uuid import UUID

from sqlalchemy import (
    BigInteger,
    DateTime,
    Engine,
    FetchedValue,
    ForeignKey,
    ForeignKeyConstraint,
    create_engine,
    make_url,
)
from sqlalchemy.dialects.postgresql import ENUM, JSONB
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from optiinfra_db.generated import models


def engine(url: str, **options: Any) -> Engine:  # noqa: ANN401
    """Make an engine for one of our URLs; nothing connects before it is used."""
    return create_engine(make_url(url).set(drivername="postgresql+psycopg"), **options)


def uuid7() -> UUID:
    """Make a time-ordered id, as `uuid.uuid7` of Python 3.14 does."""
    number = time.time_ns() // 1_000_000 << 80 | int.from_bytes(os.urandom(10))
    return UUID(int=number & ~(0xF << 76 | 0x3 << 62) | 0x7 << 76 | 0x2 << 62)


def _enum(cls: type[StrEnum], name: str) -> ENUM:
    def labels(members: Iterable[StrEnum]) -> list[str]:
        return [member.value for member in members]

    return ENUM(cls, name=name, create_type=False, values_callable=labels)


Id = Annotated[UUID, mapped_column(primary_key=True, default=uuid7)]
Object = Annotated[dict[str, Any], mapped_column(server_default=FetchedValue())]
CreatedAt = Annotated[datetime, mapped_column(server_default=FetchedValue())]
UpdatedAt = Annotated[
    datetime, mapped_column(server_default=FetchedValue(), server_onupdate=FetchedValue())
]


class Base(DeclarativeBase):
    """What the mapped classes share."""

    type_annotation_map = {  # noqa: RUF012
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB(none_as_null=True),
        list[Any]: JSONB(none_as_null=True),
        models.AgentStatus: _enum(models.AgentStatus, "agent_status"),
        models.AgentType: _enum(models.AgentType, "agent_type"),
        models.ArtifactType: _enum(models.ArtifactType, "artifact_type"),
        models.CustomerPlan: _enum(models.CustomerPlan, "customer_plan"),
        models.CustomerStatus: _enum(models.CustomerStatus, "customer_status"),
        models.StepStatus: _enum(models.StepStatus, "step_status"),
        models.WorkflowStatus: _enum(models.WorkflowStatus, "workflow_status"),
        models.WorkflowType: _enum(models.WorkflowType, "workflow_type"),
    }


class Customer(Base):
    """A row of customers."""

    __tablename__ = "customers"

    id: Mapped[Id]
    name: Mapped[str]
    email: Mapped[str]
    plan: Mapped[models.CustomerPlan] = mapped_column(server_default=FetchedValue())
    status: Mapped[models.CustomerStatus] = mapped_column(server_default=FetchedValue())
    metadata_: Mapped[Object] = mapped_column("metadata")
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[UpdatedAt]


class Agent(Base):
    """A row of agents."""

    __tablename__ = "agents"

    id: Mapped[Id]
    type: Mapped[models.AgentType]
    name: Mapped[str]
    version: Mapped[str]
    status: Mapped[models.AgentStatus] = mapped_column(server_default=FetchedValue())
    last_heartbeat: Mapped[datetime | None]
    endpoint: Mapped[str | None]
    capabilities: Mapped[list[Any]] = mapped_column(server_default=FetchedValue())
    metadata_: Mapped[Object] = mapped_column("metadata")
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[UpdatedAt]


class Run(Base):
    """A row of workflow_executions."""

    __tablename__ = "workflow_executions"

    customer_id: Mapped[UUID] = mapped_column(ForeignKey("customers.id"), primary_key=True)
    id: Mapped[Id]
    agent_id: Mapped[UUID] = mapped_column(ForeignKey("agents.id"))
    workflow_type: Mapped[models.WorkflowType]
    status: Mapped[models.WorkflowStatus] = mapped_column(server_default=FetchedValue())
    attempt: Mapped[int] = mapped_column(server_default=FetchedValue())
    retried_from_id: Mapped[UUID | None]
    started_at: Mapped[datetime | None]
    heartbeat_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    deadline_at: Mapped[datetime | None]
    input_data: Mapped[Object]
    output_data: Mapped[Object]
    error_details: Mapped[dict[str, Any] | None]
    metadata_: Mapped[Object] = mapped_column("metadata")
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[UpdatedAt]

    customer: Mapped[Customer] = relationship()
    agent: Mapped[Agent] = relationship()
    steps: Mapped[list["Step"]] = relationship(back_populates="run", order_by="Step.step_order")
    artifacts: Mapped[list["Artifact"]] = relationship(back_populates="run", order_by="Artifact.id")


class Step(Base):
    """A row of workflow_steps."""

    __tablename__ = "workflow_steps"
    __table_args__ = (
        ForeignKeyConstraint(
            ["customer_id", "workflow_execution_id"],
            ["workflow_executions.customer_id", "workflow_executions.id"],
        ),
    )

    customer_id: Mapped[UUID] = mapped_column(primary_key=True)
    workflow_execution_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[Id]
    step_name: Mapped[str]
    step_order: Mapped[int]
    status: Mapped[models.StepStatus] = mapped_column(server_default=FetchedValue())
    retry_count: Mapped[int] = mapped_column(server_default=FetchedValue())
    max_retries: Mapped[int] = mapped_column(server_default=FetchedValue())
    next_attempt_at: Mapped[datetime | None]
    started_at: Mapped[datetime | None]
    completed_at: Mapped[datetime | None]
    input_data: Mapped[Object]
    output_data: Mapped[Object]
    error_details: Mapped[dict[str, Any] | None]
    metadata_: Mapped[Object] = mapped_column("metadata")
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[UpdatedAt]

    run: Mapped[Run] = relationship(back_populates="steps")


class Artifact(Base):
    """A row of workflow_artifacts."""

    __tablename__ = "workflow_artifacts"
    __table_args__ = (
        ForeignKeyConstraint(
            ["customer_id", "workflow_execution_id"],
            ["workflow_executions.customer_id", "workflow_executions.id"],
        ),
        ForeignKeyConstraint(
            ["customer_id", "workflow_execution_id", "workflow_step_id"],
            [
                "workflow_steps.customer_id",
                "workflow_steps.workflow_execution_id",
                "workflow_steps.id",
            ],
        ),
    )

    customer_id: Mapped[UUID] = mapped_column(primary_key=True)
    workflow_execution_id: Mapped[UUID] = mapped_column(primary_key=True)
    id: Mapped[Id]
    workflow_step_id: Mapped[UUID | None]
    artifact_type: Mapped[models.ArtifactType]
    artifact_name: Mapped[str]
    artifact_path: Mapped[str]
    artifact_size_bytes: Mapped[int] = mapped_column(BigInteger)
    content_type: Mapped[str]
    sha256: Mapped[bytes]
    metadata_: Mapped[Object] = mapped_column("metadata")
    created_at: Mapped[CreatedAt]
    updated_at: Mapped[UpdatedAt]

    run: Mapped[Run] = relationship(back_populates="artifacts", overlaps="step")
    step: Mapped[Step | None] = relationship(overlaps="artifacts,run")
