"""API keys of customers: made, handed out once, recognised, and checked at each call.

A key is `oi_`, 256 random bits and a checksum, in letters and digits. The database holds only its
SHA-256, and only that ever travels there: the key itself is in no statement, error or log. What
returns a new key holds it as pydantic's `SecretStr`, which shows it to nobody who does not ask.
"""

import hashlib
import hmac
import re
import secrets
import string
import zlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from psycopg import AsyncConnection, Connection
from pydantic import SecretStr

from optiinfra_db.errors import CustomerChurned, CustomerSuspended, InvalidApiKey
from optiinfra_db.generated import api_keys
from optiinfra_db.generated.aio import api_keys as api_keys_async
from optiinfra_db.generated.api_keys import ApiKey, AuthenticatedCustomer
from optiinfra_db.generated.models import CustomerStatus

__all__ = [
    "API_KEY_PATTERN",
    "NewApiKey",
    "authenticate",
    "authenticate_async",
    "create",
    "create_async",
    "generate",
    "hash_api_key",
    "is_well_formed",
    "revoke",
    "revoke_async",
    "rotate",
    "rotate_async",
    "verify",
]

API_KEY_PATTERN = r"oi_[0-9A-Za-z]{49}"
"""What a key looks like, as a regular expression for scanners; `is_well_formed` tells real ones."""

_PREFIX = "oi_"
_DIGITS = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM_BYTES = 32
_RANDOM_WIDTH = 43
_CHECKSUM_WIDTH = 6


@dataclass(frozen=True, slots=True)
class NewApiKey:
    """A key that was just made, with its row: the only time that it can be seen."""

    key: SecretStr
    """The key, by `key.get_secret_value()`. Hand it to the customer, and forget it."""

    row: ApiKey


def generate() -> str:
    """Return a new key, which is stored nowhere: `oi_`, 43 random characters, 6 of a checksum."""
    number = int.from_bytes(secrets.token_bytes(_RANDOM_BYTES))
    random = _base62(number, _RANDOM_WIDTH)
    return f"{_PREFIX}{random}{_checksum(random)}"


def is_well_formed(key: str) -> bool:
    """Say whether this looks like a key and its checksum is right, without the database.

    A typo is noticed, be it a wrong character or two that are swapped; what passes is a key, here
    or elsewhere, and one in four thousand million strings that only look like one.
    """
    if not re.fullmatch(API_KEY_PATTERN, key):
        return False
    random, checksum = key[len(_PREFIX) : -_CHECKSUM_WIDTH], key[-_CHECKSUM_WIDTH:]
    return checksum == _checksum(random)


def hash_api_key(key: str) -> bytes:
    """Return the SHA-256 of a key, 32 bytes: what the database holds of it."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).digest()


def verify(key: str, api_key_hash: bytes) -> bool:
    """Say whether a hash is that of this key, in a time that tells nothing about either."""
    return hmac.compare_digest(hash_api_key(key), api_key_hash)


def create(
    conn: Connection[Any], *, customer_id: UUID, expires_at: datetime | None = None
) -> NewApiKey:
    """Give a customer one more key, valid until expires_at or for ever, and return it this once.

    Raises NotFound where there is no such customer.
    """
    key = SecretStr(generate())
    row = api_keys.create_api_key(
        conn, customer_id=customer_id, api_key_hash=_hash(key), expires_at=expires_at
    )
    return NewApiKey(key, row)


async def create_async(
    conn: AsyncConnection[Any], *, customer_id: UUID, expires_at: datetime | None = None
) -> NewApiKey:
    """Do what `create` does."""
    key = SecretStr(generate())
    row = await api_keys_async.create_api_key(
        conn, customer_id=customer_id, api_key_hash=_hash(key), expires_at=expires_at
    )
    return NewApiKey(key, row)


def rotate(
    conn: Connection[Any], *, customer_id: UUID, overlap: timedelta = timedelta(hours=24)
) -> NewApiKey:
    """Give a customer a new key, and return it this once; all others expire after the overlap.

    The overlap is from 0 (the others are invalid at once) to a year. Where the answer was lost,
    call again: the key that nobody saw expires with the others.

    Raises InvalidValue for another overlap, and NotFound where there is no such customer.
    """
    key = SecretStr(generate())
    row = api_keys.rotate_api_key(
        conn, customer_id=customer_id, api_key_hash=_hash(key), overlap=overlap
    )
    return NewApiKey(key, row)


async def rotate_async(
    conn: AsyncConnection[Any], *, customer_id: UUID, overlap: timedelta = timedelta(hours=24)
) -> NewApiKey:
    """Do what `rotate` does."""
    key = SecretStr(generate())
    row = await api_keys_async.rotate_api_key(
        conn, customer_id=customer_id, api_key_hash=_hash(key), overlap=overlap
    )
    return NewApiKey(key, row)


revoke = api_keys.revoke_api_key
revoke_async = api_keys_async.revoke_api_key


def authenticate(conn: Connection[Any], key: str) -> AuthenticatedCustomer:
    """Return whose key a call came with, in one statement, and note that the key is in use.

    Raises InvalidApiKey where the key is malformed (without asking the database), unknown, expired
    or revoked, and CustomerSuspended or CustomerChurned where its customer is not active.
    """
    api_key_hash = hash_api_key(key) if is_well_formed(key) else None
    del key  # or it would be in a traceback that shows variables
    if api_key_hash is None:
        raise InvalidApiKey("malformed")
    return _admitted(api_keys.authenticate_api_key(conn, api_key_hash=api_key_hash))


async def authenticate_async(conn: AsyncConnection[Any], key: str) -> AuthenticatedCustomer:
    """Do what `authenticate` does."""
    api_key_hash = hash_api_key(key) if is_well_formed(key) else None
    del key
    if api_key_hash is None:
        raise InvalidApiKey("malformed")
    return _admitted(await api_keys_async.authenticate_api_key(conn, api_key_hash=api_key_hash))


def _hash(key: SecretStr) -> bytes:
    return hash_api_key(key.get_secret_value())


def _admitted(found: AuthenticatedCustomer | None) -> AuthenticatedCustomer:
    if found is None or found.problem:
        raise InvalidApiKey("unknown" if found is None else str(found.problem))
    if found.status == CustomerStatus.SUSPENDED:
        raise CustomerSuspended(f"Customer {found.customer_id} is suspended.")
    if found.status == CustomerStatus.CHURNED:
        raise CustomerChurned(f"Customer {found.customer_id} has left the platform.")
    return found


def _checksum(random: str) -> str:
    return _base62(zlib.crc32(random.encode()), _CHECKSUM_WIDTH)


def _base62(number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, len(_DIGITS))
        digits = _DIGITS[digit] + digits
    return digits
