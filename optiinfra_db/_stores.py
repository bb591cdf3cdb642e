"""Where content lies outside of the database: a folder, or a URL that fsspec knows.

What goes wrong is an ArtifactStoreError, which tells no secret; what is written is there whole, or
not at all.
"""

import errno
import hashlib
import io
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Any

from optiinfra_db._files import whole_file
from optiinfra_db.errors import ArtifactStoreError, OptiInfraError

Options = Mapping[str, Any] | None
Write = Callable[[bytes], object]

_CHUNK_BYTES = 2**20
PART_BYTES = 2**24  # of an upload: S3 takes 10,000, so this reaches to 156 GiB

URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*)://(?P<rest>.*)", re.DOTALL)
_NO_URL = re.compile(r"[^/]*::.*://|[A-Za-z][A-Za-z0-9+.-]*://.*::|[A-Za-z][A-Za-z0-9+.-]+:/[^/]")
_SECRET_NAME = r"(?:secret|signature|sig|token|password|passwd|key|credential)"  # noqa: S105 -- what names a secret
_SHORT_WORD = 3  # letters: taken for a secret, it would take much else out of a text
_SECRET_IN_URL = re.compile(
    rf"[^/@:]*:(?!\d*(?:/|$)).*@|.*[?&;][^=&;]*{_SECRET_NAME}[^=&;]*=", re.DOTALL | re.IGNORECASE
)
_CREDENTIALS = re.compile(r"://[^/\s@]*@")


def absolute(path: str | PathLike[str]) -> str:
    """Return a path as rows have it: a URL, or a file path that is the same for every process."""
    text = os.fspath(path)
    if _NO_URL.match(text):
        raise ArtifactStoreError(
            "The path is a chain of URLs (::), or a URL that has lost a slash in a pathlib.Path. "
            "Give the URL of the content itself, as text."
        )
    url = URL.fullmatch(text)
    if url is None or url["scheme"].lower() in {"file", "local"}:
        local = Path(url["rest"] if url else text)
        return str(local.expanduser() if local.parts[:1] == ("~",) else local.absolute())
    if _SECRET_IN_URL.match(url["rest"]):
        raise ArtifactStoreError(
            f"The path is a {url['scheme']}:// URL with a password, key or signature in it, which "
            "would be kept in the database. Leave it out, and give it as storage_options, or in "
            "the configuration of fsspec or of the store."
        )
    return f"{url['scheme'].lower()}://{url['rest'].rstrip('/')}"


def below(directory: str | PathLike[str], *parts: object) -> str:
    # Of / and memory:// the last slash goes as well, and comes back.
    return "/".join([absolute(directory).removesuffix("/"), *map(str, parts)])


def chunks(source: Any) -> Iterator[bytes]:  # noqa: ANN401
    while chunk := source.read(_CHUNK_BYTES):
        yield chunk


def copy(chunks: Iterable[bytes], write: Write = lambda _: None) -> tuple[int, bytes]:
    """Write the chunks; return their size and SHA-256."""
    size, digest = 0, hashlib.sha256()
    for chunk in chunks:
        write(chunk)
        digest.update(chunk)
        size += len(chunk)
    return size, digest.digest()


def find_store(path: str, options: Options) -> tuple[Any, str]:
    """Return the file system of fsspec that has a path, and what it calls the path."""
    import fsspec  # noqa: PLC0415 -- it takes 70 ms, and writing to disk does without

    place = absolute(path)
    if URL.match(place) is None:
        return fsspec.filesystem("file"), place
    with failures(f"The store of {place} cannot be used", options):
        fs, inner = fsspec.url_to_fs(place, **options or {})
    return fs, inner


def writing(path: str, options: Options) -> AbstractContextManager[Write]:
    """Provide what writes content, which is at its path once all has gone well, and not before."""
    return whole_file(Path(path)) if URL.match(path) is None else _object(path, options)


@contextmanager
def _object(url: str, options: Options) -> Iterator[Write]:
    fs, path = find_store(url, options)
    if "memory" in fs.protocol:  # where what is opened is there at once, and empty
        buffer = io.BytesIO()
        yield buffer.write
        fs.pipe_file(path, buffer.getvalue())
        return
    file = fs.open(path, "wb", block_size=PART_BYTES)
    try:
        yield file.write
        file.close()
    except BaseException:
        with suppress(Exception):
            file.closed = True  # or the garbage collector would close it, which completes it
            file.discard()
        raise


@contextmanager
def failures(what: str, options: Options) -> Iterator[None]:
    """Raise what goes wrong with a store as an error that says what to do, and tells no secret."""
    try:
        yield
    except OptiInfraError:
        raise
    except Exception as error:
        reason = (
            isinstance(error, OSError) and error.strerror
        ) or f"{type(error).__name__}: {error}"
        shown = _without_secrets(reason, options)
        cause = error if shown == reason else None
        text = " ".join(shown.split()).rstrip(".: ")
        raise ArtifactStoreError(f"{what}: {text}. {_advice(error)}") from cause


def _advice(error: Exception) -> str:
    match error:
        case ImportError():
            return "Install what is missing: for s3://, pip install 'optiinfra-db[s3]'."
        case PermissionError():
            return "See that this process, with the credentials it has, may do that."
        case FileNotFoundError() | NotADirectoryError() | FileExistsError() | IsADirectoryError():
            return "Correct the path, or create the bucket or folder that is missing."
        case OSError(errno=errno.ENOSPC | errno.EDQUOT | errno.EFBIG):
            return "Make room there, then try again."
        case _:
            return "Check the address, options and credentials of the store, then try again."


def _without_secrets(text: str, options: Options) -> str:
    config = sys.modules.get("fsspec.config")  # not imported for a failure of a disk
    for secret in _secrets({"given": options or {}, "configured": config.conf if config else {}}):
        text = text.replace(secret, "***")
    return _CREDENTIALS.sub("://***@", text)


def _secrets(options: Mapping[str, Any]) -> Iterator[str]:
    for name, value in options.items():
        if isinstance(value, Mapping):
            yield from _secrets(value)
        elif re.search(_SECRET_NAME, name, re.IGNORECASE) and len(str(value)) > _SHORT_WORD:
            yield str(value)
