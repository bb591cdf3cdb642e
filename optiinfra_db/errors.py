"""Every error this package raises on purpose.

Each message says what was wrong, with what value, and what to do; none ever holds a password.
`exit_code` is what the command line ends with: 1 unexpected, 2 wrong usage or configuration,
3 no server to talk to, 4 refused to protect the database, 5 a migration failed.
"""

# ruff: noqa: N818 -- InvalidURL says it all


class OptiInfraError(Exception):
    """The base of all errors raised by optiinfra_db."""

    exit_code = 1


class InvalidURL(OptiInfraError):
    """The database URL is not a PostgreSQL URL, or cannot be read."""

    exit_code = 2


class NoDatabaseConfigured(OptiInfraError):
    """No URL was given or set, and the embedded server is not installed."""

    exit_code = 2


class DatabaseUnreachable(OptiInfraError):
    """The server did not answer, or did not let us in."""

    exit_code = 3


class EmbeddedServerError(OptiInfraError):
    """The embedded server could not be started or stopped."""

    exit_code = 3


class MigrationError(OptiInfraError):
    """The base of what migrate, rollback and status raise."""

    exit_code = 4


class UnknownMigration(MigrationError):
    """The migration asked for does not exist."""

    exit_code = 2


class ChecksumMismatch(MigrationError):
    """A migration file was edited after it had been applied."""


class DatabaseNewerThanPackage(MigrationError):
    """The database holds migrations that this version of the package does not know."""


class UnsupportedPostgres(MigrationError):
    """The server is older than PostgreSQL 15."""


class InsufficientPrivileges(MigrationError):
    """The role may not do what the migration needs."""


class MissingRollback(MigrationError):
    """A migration to be rolled back has no rollback file."""


class MigrationFailed(MigrationError):
    """The database refused a statement of a migration, or the connection was lost."""

    exit_code = 5


class MigrationLockTimeout(MigrationFailed):
    """A migration waited longer than its lock_timeout for a table in use."""
