"""The content of artifacts: stored so that it is whole or not there, verified, and cleaned up.

A row of workflow_artifacts says where content lies, how large it is and what its digest is;
`store_content` writes that content and returns what the row needs. A store is a folder, or a URL
that fsspec knows: s3://bucket/prefix (with `optiinfra-db[s3]`), memory://. Content comes first, its
row second: what fails in between leaves content without a row, which `find_orphans` lists.
"""

import asyncio
import io
import mimetypes
import os
import re
import tempfile
import unicodedata
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from os import PathLike
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, cast
from uuid import UUID

from psycopg import AsyncConnection, Connection

from optiinfra_db._paging import newest_first
from optiinfra_db._stores import (
    PART_BYTES,
    URL,
    Options,
    absolute,
    below,
    chunks,
    copy,
    failures,
    find_store,
    writing,
)
from optiinfra_db.errors import ArtifactStoreError
from optiinfra_db.generated import workflow_artifacts
from optiinfra_db.generated.aio import workflow_artifacts as workflow_artifacts_async
from optiinfra_db.generated.models import ArtifactType, WorkflowArtifact

__all__ = [
    "ArtifactCheck",
    "ArtifactProblem",
    "Orphans",
    "StoredContent",
    "check_artifacts",
    "find_orphans",
    "find_orphans_async",
    "iterate_artifacts",
    "store_content",
    "verify_artifacts",
    "verify_artifacts_async",
]

_PAGE_ROWS = 1000
_MAX_PATH = 1024  # of workflow_artifacts.artifact_path, in characters
_MAX_NAME_BYTES = 200  # file systems take 255
_MAX_SUFFIX_BYTES = 20

_UNSAFE = re.compile(r"[^\w.+-]|^\.")


@dataclass(frozen=True, slots=True)
class StoredContent:
    """Where content was stored and what it is: what register_workflow_artifact takes."""

    path: str
    """A URL, or an absolute file path."""
    size_bytes: int
    sha256: bytes
    """32 bytes."""
    content_type: str


class ArtifactProblem(StrEnum):
    """What is wrong with the content of an artifact."""

    MISSING = "missing"
    """There is nothing at its path."""
    WRONG_SIZE = "wrong_size"
    """It is longer or shorter than its row says."""
    WRONG_DIGEST = "wrong_digest"
    """It is as long as its row says, and different."""
    UNREADABLE = "unreadable"
    """It cannot be told: no permission, no network, no library for its store."""


@dataclass(frozen=True, slots=True)
class ArtifactCheck:
    """What came of checking the content of an artifact."""

    artifact: WorkflowArtifact
    problem: ArtifactProblem | None
    """None where the content is what the row says."""
    detail: str
    """The problem in a sentence; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Orphans:
    """Rows without content, and content without a row."""

    rows: list[WorkflowArtifact]
    """Rows whose content is not there."""
    contents: list[str]
    """Paths of contents that no row of the customer points at."""
    unreadable: list[ArtifactCheck]
    """Rows of which it cannot be told, and why not."""


Found = tuple[ArtifactProblem | None, str]
Look = Callable[[WorkflowArtifact, Any, str], Found]


def store_content(
    *,
    data: bytes | None = None,
    file: str | PathLike[str] | BinaryIO | None = None,
    path: str | PathLike[str] | None = None,
    directory: str | PathLike[str] | None = None,
    name: str,
    customer_id: UUID,
    workflow_execution_id: UUID,
    content_type: str | None = None,
    taken: Mapping[str, bytes] | None = None,
    storage_options: Options = None,
) -> StoredContent:
    """Write content, `data` or all of `file`, to a store; return what is to be noted in its row.

    It goes to `path` where that is given. Else it goes below `directory`, to a path made of the
    customer, the run, the digest and the name: the same content comes to the same path, so storing
    it again is safe, and other content of the same name to another one. What is at the path already
    is replaced, unless the path is one of those `taken`, whose content has the SHA-256 given there:
    then other content is refused.

    The content is whole and durable when this returns. Where it fails, or is interrupted, nothing
    of it is at the path, and what was there before still is. Files are read in pieces, those for a
    directory twice, file objects from where they stand.

    A content type that is not given is guessed from the ends of path and name. `storage_options`
    are those of the file system of fsspec, for which its own configuration counts as well; a path
    on disk has none.

    Raises ArtifactStoreError.
    """
    with _opened(data, file) as source:
        if path is not None:
            expected, target = None, absolute(path)
            digest = (taken or {}).get(target)
            if digest is not None and _measured(source)[1] != digest:
                raise ArtifactStoreError(
                    f"The content of {name!r} was not written to {target}, where other content of "
                    "the run is. Choose another path, or leave it out."
                )
        elif directory is not None:
            expected = _measured(source)
            start = expected[1].hex()[:12]
            target = below(directory, customer_id, workflow_execution_id, start, _safe(name))
        else:
            raise ArtifactStoreError(
                f"There is no place for the content of {name!r}. Give a path, or a folder or URL "
                "to put it below, such as s3://bucket/prefix (OPTIINFRA_ARTIFACTS_URL)."
            )
        _check_path(target)
        with (
            failures(f"The content of {name!r} could not be written to {target}", storage_options),
            writing(target, storage_options) as write,
        ):
            written = copy(_content(source), write)
            if expected not in (None, written):
                raise ArtifactStoreError(
                    f"The content of {name!r} changed while it was read, and was not written to "
                    f"{target}. Store it when nobody writes to it any more."
                )
    return StoredContent(target, *written, content_type or _guessed_type(target, name))


def verify_artifacts(
    conn: Connection[Any],
    *,
    customer_id: UUID,
    workflow_execution_id: UUID,
    storage_options: Options = None,
) -> list[ArtifactCheck]:
    """Read the content of all artifacts of a run, and compare it to their rows; oldest first."""
    artifacts = workflow_artifacts.list_workflow_artifacts(
        conn, customer_id=customer_id, workflow_execution_id=workflow_execution_id
    )
    return list(check_artifacts(artifacts, storage_options=storage_options))


async def verify_artifacts_async(
    conn: AsyncConnection[Any],
    *,
    customer_id: UUID,
    workflow_execution_id: UUID,
    storage_options: Options = None,
) -> list[ArtifactCheck]:
    """Do what `verify_artifacts` does, reading in a thread."""
    artifacts = await workflow_artifacts_async.list_workflow_artifacts(
        conn, customer_id=customer_id, workflow_execution_id=workflow_execution_id
    )
    return [
        await asyncio.to_thread(_check, artifact, _compared, storage_options)
        for artifact in artifacts
    ]


def check_artifacts(
    artifacts: Iterable[WorkflowArtifact], *, storage_options: Options = None
) -> Iterator[ArtifactCheck]:
    """Read the content of each artifact, compare it to the row, and yield what came of it.

    It goes one by one, so that a caller can show how far it is, or stop.
    """
    for artifact in artifacts:
        yield _check(artifact, _compared, storage_options)


def iterate_artifacts(
    conn: Connection[Any], *, customer_id: UUID, artifact_type: ArtifactType | None = None
) -> Iterator[WorkflowArtifact]:
    """Yield the artifacts of a customer, page by page: of a type, or of each; newest first."""
    for one_type in [artifact_type] if artifact_type else ArtifactType:
        yield from newest_first(
            workflow_artifacts.list_artifacts_by_type,
            conn,
            customer_id=customer_id,
            artifact_type=one_type,
            max_rows=_PAGE_ROWS,
        )


def find_orphans(
    conn: Connection[Any],
    *,
    customer_id: UUID,
    directory: str | PathLike[str],
    older_than: timedelta = timedelta(hours=1),
    storage_options: Options = None,
) -> Orphans:
    """List the rows of a customer that have no content, and the content that has no row.

    Content is looked for where `store_content` puts it below `directory`, the leftovers of writers
    that were killed included. What is younger than `older_than` may be about to get its row, and is
    left out. All rows of the customer are looked at, wherever their content is. Nothing is changed.

    Raises ArtifactStoreError where the directory cannot be listed.
    """
    contents = _contents(directory, customer_id, storage_options)
    # After the contents, which have got their rows by now.
    rows = list(iterate_artifacts(conn, customer_id=customer_id))
    return _orphans(contents, rows, older_than, storage_options)


async def find_orphans_async(
    conn: AsyncConnection[Any],
    *,
    customer_id: UUID,
    directory: str | PathLike[str],
    older_than: timedelta = timedelta(hours=1),
    storage_options: Options = None,
) -> Orphans:
    """Do what `find_orphans` does, looking at the store in a thread."""
    contents = await asyncio.to_thread(_contents, directory, customer_id, storage_options)
    rows = [row async for row in _rows_async(conn, customer_id)]
    return await asyncio.to_thread(_orphans, contents, rows, older_than, storage_options)


# Paths


def _safe(name: str) -> str:
    """Return a name as the last part of a path: percent-encoded, but for letters and digits."""

    def encoded(match: re.Match[str]) -> str:
        return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogatepass"))

    safe = PurePosixPath(_UNSAFE.sub(encoded, name))
    suffix = safe.suffix if len(safe.suffix.encode()) <= _MAX_SUFFIX_BYTES else ""
    stem = safe.name.removesuffix(suffix).encode()[: _MAX_NAME_BYTES - len(suffix.encode())]
    return stem.decode(errors="ignore") + suffix


def _check_path(path: str) -> None:
    """Refuse what a row cannot have."""
    if len(path) > _MAX_PATH:
        raise ArtifactStoreError(
            f"The path {path[:80]}... has {len(path):,} characters, and {_MAX_PATH:,} are the "
            "limit. Choose a shorter one."
        )
    if path.endswith("/"):
        raise ArtifactStoreError(f"The path {path} ends with no name. Give content a name.")
    if any(unicodedata.category(character) in {"Cc", "Cs"} for character in path):
        raise ArtifactStoreError(
            f"The path {path!r} has control characters, or bytes that are no text. Choose another."
        )


def _guessed_type(*names: str) -> str:
    for name in names:
        content_type, encoding = mimetypes.guess_type("_" + PurePosixPath(name).name)
        if encoding is not None:
            return "application/gzip" if encoding == "gzip" else f"application/x-{encoding}"
        if content_type is not None:
            return content_type
    return "application/octet-stream"


# What is to be stored


@contextmanager
def _opened(data: bytes | None, file: str | PathLike[str] | BinaryIO | None) -> Iterator[BinaryIO]:
    """Provide content as a file that can be read twice."""
    if (data is None) == (file is None) or isinstance(file, io.TextIOBase):
        raise TypeError("store_content takes data, or a file: a path or an open binary file")
    if data is not None:
        yield io.BytesIO(data)
    elif isinstance(file, str | PathLike):
        with _unreadable(file):
            opened = Path(file).open("rb")  # noqa: SIM115 -- it is closed below
        with opened:
            yield opened
    elif file is not None and file.seekable():
        yield file
    else:
        with tempfile.TemporaryFile() as again:
            with _unreadable(file):
                copy(chunks(file), again.write)
                again.seek(0)
            yield cast("BinaryIO", again)


@contextmanager
def _unreadable(source: object) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise ArtifactStoreError(f"The content cannot be read: {error} ({source!r}).") from error


def _content(source: BinaryIO) -> Iterator[bytes]:
    with _unreadable(source):
        yield from chunks(source)


def _measured(source: BinaryIO) -> tuple[int, bytes]:
    """Return size and SHA-256 of what is still to be read, and go back."""
    with _unreadable(source):
        start = source.tell()
        measured = copy(chunks(source))
        source.seek(start)
    return measured


# Checks


def _check(artifact: WorkflowArtifact, look: Look, options: Options) -> ArtifactCheck:
    path = artifact.artifact_path
    try:
        fs, inner = find_store(path, options)
        with failures(f"{path} cannot be read", options):
            try:
                problem, detail = look(artifact, fs, inner)
            except (FileNotFoundError, NotADirectoryError):
                problem, detail = ArtifactProblem.MISSING, f"There is nothing at {path}."
    except ArtifactStoreError as error:
        problem, detail = ArtifactProblem.UNREADABLE, str(error)
    return ArtifactCheck(artifact, problem, detail)


def _compared(artifact: WorkflowArtifact, fs: Any, path: str) -> Found:  # noqa: ANN401
    """Compare content to its row; it is read only where its size is right."""
    size, digest = _size(fs, path), b""
    if size == artifact.artifact_size_bytes:
        with fs.open(path, "rb", block_size=PART_BYTES) as file:
            size, digest = copy(chunks(file))
    if size != artifact.artifact_size_bytes:
        return ArtifactProblem.WRONG_SIZE, (
            f"{artifact.artifact_path} has {size:,} bytes, and not the "
            f"{artifact.artifact_size_bytes:,} that were stored."
        )
    if digest != artifact.sha256:
        return ArtifactProblem.WRONG_DIGEST, (
            f"{artifact.artifact_path} has the SHA-256 {digest.hex()}, and not the "
            f"{artifact.sha256.hex()} of what was stored."
        )
    return None, ""


def _present(_: WorkflowArtifact, fs: Any, path: str) -> Found:  # noqa: ANN401
    _size(fs, path)
    return None, ""


def _size(fs: Any, path: str) -> int:  # noqa: ANN401
    fs.invalidate_cache()  # of what it has listed before
    info = fs.info(path)
    if info["type"] == "directory":
        raise FileNotFoundError
    return int(info["size"])


# Orphans


def _contents(
    directory: str | PathLike[str], customer_id: UUID, options: Options
) -> dict[object, str]:
    """Return the paths of all content of a customer below a directory, each by its place."""
    root = below(directory, customer_id)
    fs, inner = find_store(root, options)
    with failures(f"{root} cannot be listed", options):
        if URL.match(root) is None:
            Path(root).parent.stat()  # where that is missing, it may be a disk that is not mounted
        fs.invalidate_cache()
        names = sorted(fs.find(inner))
    paths = [root + name.removeprefix(inner) for name in names]
    return {_place(path, options): path for path in paths}


def _place(path: str, options: Options) -> object:
    """Return what two paths have in common if they lead to the same content; None if unknown."""
    try:
        fs, inner = find_store(path, options)
    except ArtifactStoreError:
        return None
    return type(fs), os.path.realpath(inner) if "file" in fs.protocol else inner


async def _rows_async(
    conn: AsyncConnection[Any], customer_id: UUID
) -> AsyncIterator[WorkflowArtifact]:
    for artifact_type in ArtifactType:
        before_id = None
        while page := await workflow_artifacts_async.list_artifacts_by_type(
            conn,
            customer_id=customer_id,
            artifact_type=artifact_type,
            before_id=before_id,
            max_rows=_PAGE_ROWS,
        ):
            for row in page:
                yield row
            before_id = page[-1].id


def _orphans(
    contents: Mapping[object, str],
    rows: Iterable[WorkflowArtifact],
    older_than: timedelta,
    options: Options,
) -> Orphans:
    before = datetime.now(UTC) - older_than
    places = [(row, _place(row.artifact_path, options)) for row in rows]
    known = {place for _, place in places}
    checks = [_check(row, _present, options) for row, place in places if place not in contents]
    return Orphans(
        rows=[check.artifact for check in checks if check.problem is ArtifactProblem.MISSING],
        contents=[
            path
            for place, path in contents.items()
            if place not in known and _is_older(path, before, options)
        ],
        unreadable=[check for check in checks if check.problem is ArtifactProblem.UNREADABLE],
    )


def _is_older(path: str, time: datetime, options: Options) -> bool:
    fs, inner = find_store(path, options)
    with failures(f"{path} cannot be looked at", options):
        try:
            return bool(fs.modified(inner) < time)
        except (FileNotFoundError, IsADirectoryError):  # deleted meanwhile; a mark of a folder
            return False
