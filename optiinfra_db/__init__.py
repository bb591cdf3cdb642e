"""The PostgreSQL data layer of OptiInfra: hand-written SQL, typed query functions, no ORM."""

from optiinfra_db.connection import (
    acting,
    acting_async,
    connect,
    connect_async,
    pool,
    pool_async,
    tenant,
    tenant_async,
)
from optiinfra_db.errors import OptiInfraError

__version__ = "0.1.0"

__all__ = [
    "OptiInfraError",
    "__version__",
    "acting",
    "acting_async",
    "connect",
    "connect_async",
    "pool",
    "pool_async",
    "tenant",
    "tenant_async",
]
