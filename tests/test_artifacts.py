"""Content is whole or not there, on disk and in object stores, and what becomes wrong is found."""

import asyncio
import hashlib
import io
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from optiinfra_db import _stores, artifacts, connect, connect_async
from optiinfra_db.artifacts import (
    ArtifactProblem,
    StoredContent,
    check_artifacts,
    find_orphans,
    find_orphans_async,
    store_content,
    verify_artifacts,
    verify_artifacts_async,
)
from optiinfra_db.errors import ArtifactStoreError
from optiinfra_db.generated import customers, workflow_artifacts, workflow_executions
from optiinfra_db.generated.models import ArtifactType, WorkflowArtifact
from optiinfra_db.seed import ATLAS, COST, seed

RUN = UUID("01941f29-7c00-7000-8000-0000000000fe")
NOW = timedelta(0)
NUMBERS = count(1)
MB = 2**20


def store(content=b"content", *, name="report.txt", **given):
    return store_content(
        **({} if "file" in given else {"data": content}),
        **{"name": name, "customer_id": ATLAS, "workflow_execution_id": RUN} | given,
    )


def row_of(stored, **changed):
    """Return an artifact as it would be read from the database."""
    values = {
        "customer_id": ATLAS,
        "workflow_execution_id": RUN,
        "id": uuid4(),
        "workflow_step_id": None,
        "artifact_type": ArtifactType.REPORT,
        "artifact_name": "Report",
        "artifact_path": stored.path,
        "artifact_size_bytes": stored.size_bytes,
        "content_type": stored.content_type,
        "sha256": stored.sha256,
        "metadata": {},
        "created_at": datetime.now(UTC),
        "updated_at": datetime.now(UTC),
    }
    return WorkflowArtifact(**values | changed)


# Stores


class Disk:
    options = None

    def __init__(self, path):
        self.url = str(path)

    def read(self, path):
        return Path(path).read_bytes()

    def write(self, path, content):
        Path(path).write_bytes(content)

    def delete(self, path):
        Path(path).unlink()

    def paths(self):
        return sorted(str(path) for path in Path(self.url).rglob("*") if path.is_file())

    def unfinished(self):
        return []


class Fsspec:
    def __init__(self, url, options=None):
        import fsspec

        self.url, self.options = url, options
        self.fs, self.root = fsspec.url_to_fs(url, **options or {})

    def read(self, path):
        return self.fs.cat_file(path)

    def write(self, path, content):
        self.fs.pipe_file(path, content)

    def delete(self, path):
        self.fs.rm_file(path)

    def paths(self):
        self.fs.invalidate_cache()
        found = self.fs.find(self.root) if self.fs.exists(self.root) else []
        return [self.url + path.removeprefix(self.root) for path in found]

    def unfinished(self):
        if "s3" not in self.fs.protocol:
            return []
        prefix = self.root.removeprefix("bucket/")
        uploads = self.fs.call_s3("list_multipart_uploads", Bucket="bucket", Prefix=prefix)
        return uploads.get("Uploads", [])


@pytest.fixture(scope="module")
def s3_options():
    """Run a server that speaks the protocol of S3, and say how to reach it."""
    pytest.importorskip("s3fs", reason="s3fs is not installed (the extra s3)")
    server_module = pytest.importorskip("moto.server", reason="moto[server] is not installed")
    server = server_module.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    options = {"endpoint_url": f"http://{host}:{port}", "key": "access", "secret": "very-secret"}
    Fsspec("s3://bucket", options).fs.mkdir("bucket")
    yield options
    server.stop()


@pytest.fixture(params=["disk", "memory", "s3"])
def place(request, tmp_path):
    """Provide a store, empty at first."""
    match request.param:
        case "disk":
            return Disk(tmp_path / "store")
        case "memory":
            return Fsspec(f"memory://{uuid4()}")
        case _:
            options = request.getfixturevalue("s3_options")
            return Fsspec(f"s3://bucket/{uuid4()}", options)


def store_in(place, content=b"content", **given):
    return store(content, directory=place.url, storage_options=place.options, **given)


class Interrupted(io.RawIOBase):
    """A file of 20 MB, more than a part of an upload, that fails before it ends."""

    def __init__(self, meet, size=20 * MB):
        self.meet, self.size, self.given = meet, size, 0

    def read(self, size=-1):
        if self.given >= self.size:
            self.meet()
        self.given += size
        return b"x" * size

    def seekable(self):
        return True

    def tell(self):
        return 0


def fail():
    raise OSError("the source is gone")


# Storing


def test_what_is_returned_describes_what_is_there(place):
    stored = store_in(place, b"# Report\n", name="report.md")

    digest = hashlib.sha256(b"# Report\n")
    path = f"{place.url}/{ATLAS}/{RUN}/{digest.hexdigest()[:12]}/report.md"
    assert stored == StoredContent(path, 9, digest.digest(), "text/markdown")
    assert place.read(path) == b"# Report\n"
    assert place.paths() == [path]


@pytest.mark.parametrize("content", [b"", b"x", os.urandom(3 * MB + 1), b"ab" * 17 * MB])
def test_content_of_any_size_is_stored_as_it_is(place, content):
    stored = store_in(place, content)

    assert place.read(stored.path) == content
    assert (stored.size_bytes, stored.sha256) == (len(content), hashlib.sha256(content).digest())
    assert [check.problem for check in check(place, row_of(stored))] == [None]


def check(place, *rows):
    return list(check_artifacts(rows, storage_options=place.options))


@pytest.mark.parametrize("to", ["path", "directory"])
def test_files_are_stored_by_path_and_open_from_where_they_stand(place, tmp_path, to):
    source = tmp_path / "source.bin"
    source.write_bytes(b"header" + bytes(2 * MB))
    reader, writer = os.pipe()
    os.write(writer, b"piped")
    os.close(writer)

    def stored(file):
        url = f"{place.url}/explicit/{next(NUMBERS)}" if to == "path" else place.url
        return store(file=file, storage_options=place.options, **{to: url})

    assert place.read(stored(source).path) == source.read_bytes()
    assert place.read(stored(str(source)).path) == source.read_bytes()
    with source.open("rb") as file:
        file.seek(6)
        assert place.read(stored(file).path) == bytes(2 * MB)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        assert place.read(stored(pipe).path) == b"piped"


def test_storing_again_is_the_same_and_other_content_is_beside_it(place):
    first = store_in(place, b"one")

    assert store_in(place, b"one") == first
    other = store_in(place, b"two")
    assert place.read(first.path) == b"one"
    assert place.read(other.path) == b"two"
    assert place.paths() == sorted([first.path, other.path])


def test_a_path_of_its_own_is_taken_as_it_is_and_its_content_replaced(place):
    path = f"{place.url}/deep/in/chart.png"
    for content in (b"old and longer", b"new"):
        stored = store(content, path=path, storage_options=place.options)
        assert stored.path == path
        assert stored.content_type == "image/png"
        assert place.read(path) == content
    assert place.paths() == [path]


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("sub/x.txt", "{cwd}/sub/x.txt"),
        ("file://{cwd}/x.txt", "{cwd}/x.txt"),
        ("FILE://{cwd}/x.txt", "{cwd}/x.txt"),
        ("~/x.txt", "{cwd}/home/x.txt"),
        ("a::b/x.txt", "{cwd}/a::b/x.txt"),
        ("~x/x.txt", "{cwd}/~x/x.txt"),
        ("Memory://test/x.txt/", "memory://test/x.txt"),
    ],
)
def test_a_path_means_the_same_for_every_process(tmp_path, monkeypatch, given, kept):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    stored = store(path=given.format(cwd=tmp_path))

    assert stored.path == kept.format(cwd=tmp_path)
    monkeypatch.chdir("/")
    assert [found.problem for found in check_artifacts([row_of(stored)])] == [None]


def test_a_folder_may_be_any_path_and_the_root_of_a_store(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store(directory=Path("store")).path.startswith(f"{tmp_path}/store/{ATLAS}/{RUN}/")
    assert store(directory="memory://").path.startswith(f"memory://{ATLAS}/{RUN}/")
    assert store(directory="memory://x//").path.startswith(f"memory://x/{ATLAS}/{RUN}/")
    assert _stores.below("/", "x") == "/x"


NAMES = {
    "report.pdf": "report.pdf",
    "Übersicht 2.csv": "Übersicht%202.csv",
    "../../etc/passwd": "%2E.%2F..%2Fetc%2Fpasswd",
    "..": "%2E.",
    ".": "%2E",
    ".bashrc": "%2Ebashrc",
    "a/b": "a%2Fb",
    "a%2Fb": "a%252Fb",
    "a\nb\0c\x7f": "a%0Ab%00c%7F",
    "s3://x::y?z#*[": "s3%3A%2F%2Fx%3A%3Ay%3Fz%23%2A%5B",
    "\udcff": "%ED%B3%BF",
    "x" * 300 + ".tar.gz": "x" * 197 + ".gz",
    "ü" * 300 + ".csv": "ü" * 98 + ".csv",
    "x." + "y" * 300: "x." + "y" * 198,
}


@pytest.mark.parametrize(("name", "safe"), NAMES.items(), ids=ascii)
def test_a_name_is_made_safe_for_a_path(place, name, safe):
    stored = store_in(place, name=name)

    folder = f"{place.url}/{ATLAS}/{RUN}/{stored.sha256.hex()[:12]}/"
    assert stored.path == folder + safe
    assert len(safe.encode()) <= 200
    assert place.paths() == [stored.path]
    assert [found.problem for found in check(place, row_of(stored))] == [None]


@pytest.mark.parametrize(
    ("name", "path", "content_type"),
    [
        ("report.pdf", "x", "application/pdf"),
        ("Cost report", "x.json", "application/json"),
        ("report.pdf", "x.json", "application/json"),
        ("logs.tar.gz", "x", "application/gzip"),
        ("logs.csv.xz", "x", "application/x-xz"),
        ("data:text/html,x", "x", "application/octet-stream"),
        ("Version 1.5", "x", "application/octet-stream"),
    ],
)
def test_the_content_type_is_guessed_from_path_and_name(name, path, content_type):
    assert store(name=name, path=f"memory://test/{path}").content_type == content_type


def test_a_content_type_that_is_given_is_not_guessed():
    assert store(path="memory://t/x.pdf", content_type="text/x-y").content_type == "text/x-y"


@pytest.mark.parametrize(
    "given", [{}, {"data": b"", "file": io.BytesIO()}, {"file": io.StringIO("text")}]
)
def test_content_is_given_once_and_as_bytes(given):
    with pytest.raises(TypeError, match="data, or a file"):
        store_content(
            **given, path="memory://test/y", name="x", customer_id=ATLAS, workflow_execution_id=RUN
        )


# Refused before anything is written


def test_without_a_place_it_says_how_to_give_one():
    with pytest.raises(ArtifactStoreError, match=r"place for.*'report\.txt'.*_ARTIFACTS_URL"):
        store()


def test_a_path_that_no_row_could_have_is_refused(tmp_path):
    directory = tmp_path / ("d" * 200)
    for given in (
        {"directory": f"{directory}/{'/'.join(['e' * 100] * 8)}"},
        {"path": f"memory://test/{'x' * 1011}"},
    ):
        with pytest.raises(
            ArtifactStoreError, match=r"1,\d\d\d characters, and 1,024 are the limi"
        ):
            store(**given)
    for path in ("a\nb", "a\0b", "a\udcff"):
        with pytest.raises(ArtifactStoreError, match="control characters"):
            store(path=tmp_path / path)
    with pytest.raises(ArtifactStoreError, match="ends with no name"):
        store(directory=tmp_path, name="")
    assert list(tmp_path.iterdir()) == []
    assert len(store(path=f"memory://test/{'x' * 1010}").path) == 1024


@pytest.mark.parametrize("argument", ["path", "directory"])
@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hunter2@bucket/x",
        "sftp://user:hunter2@host/x",
        "sftp://user:hunter2/with@slash@host/x",
        "sftp://user:123@hunter2/x",
        "https://host/x?a=b&X-Amz-Signature=hunter2",
        "https://host/x?sig=hunter2",
        "s3://bucket/x?token=hunter2",
    ],
)
def test_a_secret_in_a_path_is_refused_and_not_told(argument, url):
    with pytest.raises(ArtifactStoreError, match="storage_options") as caught:
        store(**{argument: url})
    assert "hunter2" not in str(caught.value)

    stored = StoredContent(url, 1, bytes(32), "text/plain")
    (found,) = check_artifacts([row_of(stored)])
    assert found.problem is ArtifactProblem.UNREADABLE
    assert "hunter2" not in found.detail


@pytest.mark.parametrize("path", ["memory://host:22/a@b", "memory://a@b/c:d@e", "memory://a/b?c=d"])
def test_what_only_looks_like_a_secret_is_none(path):
    assert store(path=path).path == path


@pytest.mark.parametrize(
    "path",
    [
        "simplecache::memory://test/x",
        "zip://x::s3://user:hunter2@bucket/y.zip",
        Path("s3://bucket/x"),
    ],
)
def test_what_only_looks_like_a_url_is_refused(path):
    with pytest.raises(ArtifactStoreError, match="Give the URL of the content itself") as caught:
        store(path=path)
    assert "hunter2" not in str(caught.value)


# Failures


@pytest.mark.parametrize("to", ["path", "directory"])
def test_a_source_that_fails_leaves_nothing(place, to):
    url = f"{place.url}/x.bin"
    if to == "path":
        store(b"old", path=url, storage_options=place.options)
    before = place.paths()

    file = Interrupted(fail)
    file.seek = lambda _: None
    with pytest.raises(ArtifactStoreError, match="cannot be read: the source is gone") as caught:
        store(file=file, storage_options=place.options, **{to: url})

    assert isinstance(caught.value.__cause__, OSError)
    assert place.paths() == before
    assert all(place.read(path) == b"old" for path in before)
    assert place.unfinished() == []


class Changing(io.BytesIO):
    """A file that somebody appends to between two readings."""

    def seek(self, offset, whence=0):
        super().seek(0, 2)
        self.write(b"more")
        return super().seek(offset, whence)


def test_content_that_changes_while_it_is_read_is_refused(place):
    with pytest.raises(ArtifactStoreError, match=r"'report\.txt' changed while it was read"):
        store_in(place, file=Changing(bytes(20 * MB)))
    assert place.paths() == place.unfinished() == []


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    for file in (tmp_path / "none.txt", tmp_path, str(tmp_path / "no\0ne")):
        with pytest.raises(ArtifactStoreError, match="content cannot be read") as caught:
            store(file=file, path="memory://test/none")
        assert "none.txt" in str(caught.value) or file != tmp_path / "none.txt"
    with (tmp_path / "closed").open("wb") as closed:
        pass
    with pytest.raises((ArtifactStoreError, ValueError), match="closed file"):
        store(file=closed, path="memory://test/none")


def test_a_file_in_the_way_is_an_error_that_names_the_path(tmp_path):
    (tmp_path / "file").write_text("kept")

    with pytest.raises(ArtifactStoreError, match=rf"{tmp_path}/file/{ATLAS}.*Correct the path"):
        store(directory=tmp_path / "file")
    (tmp_path / "folder").mkdir()
    with pytest.raises(ArtifactStoreError, match=rf"{tmp_path}/folder: Is a directory"):
        store(path=tmp_path / "folder")

    assert [path.name for path in sorted(tmp_path.rglob("*"))] == ["file", "folder"]


def test_a_missing_bucket_is_not_made(s3_options):
    with pytest.raises(ArtifactStoreError, match=r"s3://nobucket/x: .*bucket.*create the bucket"):
        store(path="s3://nobucket/x", storage_options=s3_options)
    assert not Fsspec("s3://nobucket", s3_options).fs.exists("nobucket")


def test_a_store_that_does_not_answer_is_named_without_its_secrets(s3_options):
    pytest.importorskip("s3fs")
    options = {
        "endpoint_url": "http://user:hunter2@127.0.0.1:9",
        "key": "hunter3",
        "secret": "hunter4",
        "config_kwargs": {"retries": {"max_attempts": 0}},
    }
    for given in (options, {"client_kwargs": {"aws_access_key_id": "hunter5"}, **s3_options}):
        with pytest.raises(
            ArtifactStoreError, match=r"'report\.txt' could not .* s3://buc"
        ) as caught:
            store(path="s3://bucket/x", storage_options=given)
        assert "hunter" not in "".join(_causes(caught.value))


def test_secrets_in_what_a_store_says_are_left_out():
    from fsspec import AbstractFileSystem, register_implementation

    class Leaky(AbstractFileSystem):
        protocol = "leaky"

        def _open(self, path, **_):
            raise OSError(f"{path} at http://u:hunter2@host/: {self.storage_options}")

    register_implementation("leaky", Leaky, clobber=True)
    options = {"secret": "hunter3", "client_kwargs": {"aws_session_token": "hunter4"}, "pw": 1}
    with pytest.raises(ArtifactStoreError, match=r"x at http://\*\*\*@host/: .*'\*\*\*'") as caught:
        store(path="leaky://x", storage_options=options)
    assert "hunter" not in "".join(_causes(caught.value))


def _causes(error):
    while error is not None:
        yield str(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def child(code, *arguments, **options):
    """Start Python code in a process of its own, with what it needs to store."""
    preamble = f"""
import io, os, sys, time
from uuid import UUID
from optiinfra_db.artifacts import check_artifacts, store_content
from optiinfra_db.errors import ArtifactStoreError
IDS = dict(customer_id=UUID("{ATLAS}"), workflow_execution_id=UUID("{RUN}"), name="x.bin")
"""
    command = [sys.executable, "-c", preamble + code, *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.Popen(command, **pipes | options)


def told(process):
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    return output


def test_a_library_that_is_missing_is_named():
    code = """
sys.modules["s3fs"] = None
for path in sys.argv[1:]:
    try:
        store_content(data=b"", path=path, **IDS)
    except ArtifactStoreError as error:
        print(error)
"""
    s3, unknown = told(child(code, "s3://bucket/x", "nowhere://x/y")).splitlines()

    assert "pip install 'optiinfra-db[s3]'" in s3
    assert "nowhere://x/y" in unknown
    assert "Protocol not known: nowhere" in unknown


def test_storing_on_disk_does_not_import_what_object_stores_need(tmp_path):
    code = """
store_content(data=b"", directory=sys.argv[1], **IDS)
print([name for name in sys.modules if "fsspec" in name])
"""
    assert told(child(code, tmp_path)) == "[]\n"


def test_a_full_disk_leaves_nothing_and_says_so(tmp_path):
    (tmp_path / "old.bin").write_bytes(b"old")
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, 2**20))
for place in ({"directory": sys.argv[1]}, {"path": sys.argv[1] + "/old.bin"}):
    try:
        store_content(data=bytes(2**21), **place, **IDS)
    except ArtifactStoreError as error:
        print(error)
"""
    output = told(child(code, tmp_path))

    assert output.count("File too large. Make room there") == 2
    assert Disk(tmp_path).paths() == [f"{tmp_path}/old.bin"]
    assert (tmp_path / "old.bin").read_bytes() == b"old"


def test_a_missing_permission_is_an_error_that_says_so(tmp_path):
    code = """
os.geteuid() or os.setuid(65534)
try:
    store_content(data=b"x", directory=sys.argv[1] + "/store", **IDS)
except ArtifactStoreError as error:
    print(error)
"""
    tmp_path.chmod(0o555)

    output = told(child(code, tmp_path))

    assert f"{tmp_path}/store" in output
    assert "Permission denied. See that this process" in output
    assert list(tmp_path.iterdir()) == []


STALLING = """
class Stalling(io.RawIOBase):  # gives 20 MB, and then nothing more
    given = 0
    def read(self, size=-1):
        if self.given >= 20 * 2**20:
            print("stalls", flush=True)
            time.sleep(60)
        self.given += size
        return bytes(size)
    def seekable(self):
        return True
import json
store_content(file=Stalling(), path=sys.argv[1], storage_options=json.loads(sys.argv[2]), **IDS)
"""


@pytest.mark.parametrize("place", ["disk", "s3"], indirect=True)
@pytest.mark.parametrize("is_overwriting", [False, True])
def test_ctrl_c_leaves_what_was_there(place, is_overwriting):
    import json

    path = f"{place.url}/sub/x.bin"
    if is_overwriting:
        store(b"old", path=path, storage_options=place.options)
    process = child(STALLING, path, json.dumps(place.options))
    assert process.stdout.readline() == "stalls\n"

    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=30)

    assert output.rstrip().endswith("KeyboardInterrupt")
    assert place.paths() == ([path] if is_overwriting else [])
    assert all(place.read(path) == b"old" for path in place.paths())
    assert place.unfinished() == []


@pytest.mark.parametrize("place", ["disk", "s3"], indirect=True)
def test_a_killed_writer_leaves_nothing_at_the_path(place):
    import json

    path = f"{place.url}/sub/x.bin"
    process = child(STALLING, path, json.dumps(place.options))
    assert process.stdout.readline() == "stalls\n"
    process.kill()
    process.communicate()

    left = place.paths()
    assert path not in left
    assert all(found.endswith(".part") for found in left)
    stored = store(b"again", path=path, storage_options=place.options)
    assert place.read(stored.path) == b"again"


def test_content_and_names_are_flushed_to_the_disk_in_order(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def synced(descriptor):
        done.append(Path(f"/proc/self/fd/{descriptor}").readlink())
        fsync(descriptor)

    def replaced(source, target):
        done.append("replace")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", replaced)
    store(path=tmp_path / "a/b/x.txt")

    assert done[:2] == [tmp_path, tmp_path / "a"]
    assert done[2].parent == tmp_path / "a/b"
    assert done[3:] == ["replace", tmp_path / "a/b"]
    assert (tmp_path / "a/b/x.txt").stat().st_mode & 0o777 == 0o666 & ~_umask()


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_writers_in_threads_do_not_disturb_each_other(place):
    together = threading.Barrier(4)

    def write(number):
        def meet():
            together.wait(timeout=30)
            fail()

        file = Interrupted(meet)
        if number % 2:
            path = f"{place.url}/{number}.bin"
            with pytest.raises(ArtifactStoreError):
                store(file=file, path=path, storage_options=place.options)
            return None
        together.wait(timeout=30)
        return store_in(place, bytes([number]) * 20 * MB)

    with ThreadPoolExecutor(4) as pool:
        stored = [found for found in pool.map(write, range(4)) if found]

    assert place.paths() == sorted(found.path for found in stored)
    assert [found.problem for found in check(place, *map(row_of, stored))] == [None, None]
    assert place.unfinished() == []


MEASURED = """
import json, subprocess
from datetime import datetime, UTC
from optiinfra_db.generated.models import WorkflowArtifact
def peak():  # of this program: getrusage counts what the process was before it
    (line,) = (line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024
url, options, source, small = sys.argv[1], json.loads(sys.argv[2]), sys.argv[3], sys.argv[4]
def both(file):
    stored = store_content(file=file, directory=url, storage_options=options, **IDS)
    values = [stored.path, stored.size_bytes, None, stored.sha256]
    row = WorkflowArtifact(*[None] * 6, *values, *[None] * 3)
    (check,) = check_artifacts([row], storage_options=options)
    assert check.problem is None, check
    assert stored.size_bytes == os.path.getsize(file)
both(small)
before = peak()
both(source)
print(peak() - before)
"""


@pytest.mark.parametrize(("place", "limit"), [("disk", 20), ("s3", 120)], indirect=["place"])
def test_a_large_file_is_stored_and_verified_in_little_memory(place, limit, tmp_path):
    import json

    source, small = tmp_path / "large.bin", tmp_path / "small.bin"
    small.write_bytes(b"x")
    with source.open("wb") as file:
        file.truncate(300 * MB)

    grown = int(told(child(MEASURED, place.url, json.dumps(place.options), source, small)))

    assert grown < limit


# Verifying


@pytest.fixture
def conn(database_url):
    with connect(database_url) as connection:
        seed(connection)
        yield connection


@pytest.fixture
def customer(conn):
    """Make a customer who has no artifacts."""
    number = next(NUMBERS)
    return customers.create_customer(
        conn,
        name=f"Customer {number}",
        email=f"customer-{number}@example.com",
        api_key_hash=hashlib.sha256(b"%d" % number).digest(),
    ).id


@pytest.fixture
def run(conn, customer):
    return workflow_executions.create_workflow_execution(
        conn,
        customer_id=customer,
        agent_id=COST,
        workflow_type="cost_analysis",
        step_names=["analyze"],
    ).id


@pytest.fixture
def ids(customer, run):
    return {"customer_id": customer, "workflow_execution_id": run}


def register(conn, stored, ids, **given):
    return workflow_artifacts.register_workflow_artifact(
        conn,
        **ids,
        **{"artifact_type": ArtifactType.REPORT, "artifact_name": "Report"} | given,
        artifact_path=stored.path,
        artifact_size_bytes=stored.size_bytes,
        content_type=stored.content_type,
        sha256=stored.sha256,
    )


def twins(sync_function, async_function):
    """Make a fixture that calls the one or the other, each on a connection of its own kind."""

    @pytest.fixture(params=["sync", "async"])
    def call(request, conn, database_url):
        def call_async(**given):
            async def called():
                async with await connect_async(database_url) as aconn:
                    return await async_function(aconn, **given)

            return asyncio.run(called())

        return partial(sync_function, conn) if request.param == "sync" else call_async

    return call


verify = twins(verify_artifacts, verify_artifacts_async)
find = twins(find_orphans, find_orphans_async)


def test_what_is_wrong_with_content_is_found(place, conn, ids, verify):
    contents = [b"fine", b"changed", b"longer", b"shorter", b"missing", b"empty", b""]
    stored = [store_in(place, content, **ids) for content in contents]
    rows = [register(conn, found, ids) for found in stored]
    paths = [found.path for found in stored]
    place.write(paths[1], b"CHANGED")
    place.write(paths[2], b"longer than it was")
    place.write(paths[3], b"short")
    place.delete(paths[4])
    place.write(paths[5], b"")

    checks = verify(**ids, storage_options=place.options)

    assert [found.artifact for found in checks] == rows
    assert [found.problem for found in checks] == [
        None,
        "wrong_digest",
        "wrong_size",
        "wrong_size",
        "missing",
        "wrong_size",
        None,
    ]
    assert all(
        path in found.detail if found.problem else found.detail == ""
        for path, found in zip(paths, checks, strict=True)
    )
    assert "18 bytes, and not the 6" in checks[2].detail
    assert hashlib.sha256(b"CHANGED").hexdigest() in checks[1].detail


def test_a_run_without_artifacts_has_nothing_to_verify(ids, verify):
    assert verify(**ids) == []


def test_what_cannot_be_read_is_no_reason_to_stop(tmp_path):
    fine = store(directory=tmp_path)
    paths = ["nowhere://x/y", f"{tmp_path}/folder", f"{fine.path}/below", f"{tmp_path}/link"]
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "none")
    rows = [row_of(fine, artifact_path=path) for path in paths]

    checks = check_artifacts([*rows, row_of(fine)])

    problems = [found.problem for found in checks]
    assert problems == ["unreadable", "missing", "missing", "missing", None]


def test_a_folder_of_objects_is_no_empty_content(place):
    stored = store(b"", path=f"{place.url}/a/b", storage_options=place.options)

    (found,) = check(place, row_of(stored, artifact_path=f"{place.url}/a"))

    assert found.problem is ArtifactProblem.MISSING


def test_a_missing_bucket_has_no_content(s3_options):
    stored = StoredContent("s3://nobucket/x", 1, bytes(32), "text/plain")

    (found,) = check_artifacts([row_of(stored)], storage_options=s3_options)

    assert found.problem is ArtifactProblem.MISSING


def test_checks_come_one_by_one(place):
    stored = store_in(place)
    rows = iter([row_of(stored), row_of(stored)])

    checks = check_artifacts(rows, storage_options=place.options)

    assert next(checks).problem is None
    assert next(rows)  # has not been read yet


def test_content_that_others_change_after_it_was_listed_is_seen_as_it_is(s3_options):
    place = Fsspec(f"s3://bucket/{uuid4()}", s3_options)
    stored = store_in(place, b"one")
    bucket, _, key = stored.path.removeprefix("s3://").partition("/")
    place.fs.ls(stored.path.rpartition("/")[0])

    place.fs.call_s3("put_object", Bucket=bucket, Key=key, Body=b"longer")

    assert check(place, row_of(stored))[0].problem == "wrong_size"


def test_content_that_comes_back_is_seen(place):
    stored = store_in(place, b"one")
    assert place.paths() == [stored.path]
    assert check(place, row_of(stored))[0].problem is None
    place.delete(stored.path)
    assert check(place, row_of(stored))[0].problem == "missing"
    store_in(place, b"one")
    assert check(place, row_of(stored))[0].problem is None


# Orphans


def orphans(place, find, ids, **given):
    return find(
        **{"directory": place.url, "older_than": NOW, "storage_options": place.options} | given,
        customer_id=ids["customer_id"],
    )


def test_orphans_are_found_both_ways(place, conn, ids, find):
    kept, lost, crashed = (store_in(place, content, **ids) for content in (b"1", b"2", b"3"))
    register(conn, kept, ids)
    row = register(conn, lost, ids, artifact_type=ArtifactType.CHART)
    place.delete(lost.path)
    store_in(place, b"of another customer")

    found = orphans(place, find, ids)

    assert found.rows == [row]
    assert found.contents == [crashed.path]
    assert found.unreadable == []
    assert place.paths()  # and nothing was deleted
    assert place.read(crashed.path) == b"3"


def test_young_content_may_get_its_row_yet(place, conn, ids, find):
    stored = store_in(place, **ids)

    assert orphans(place, find, ids, older_than=timedelta(minutes=5)).contents == []
    assert orphans(place, find, ids).contents == [stored.path]
    register(conn, stored, ids)
    assert orphans(place, find, ids).contents == []


def test_the_default_grace_is_an_hour(tmp_path, conn, ids):
    place = Disk(tmp_path)
    young, old = (Path(store_in(place, content, **ids).path) for content in (b"1", b"2"))
    for path, minutes in ((young, 59), (old, 61)):
        then = datetime.now().timestamp() - 60 * minutes
        os.utime(path, (then, then))

    found = find_orphans(conn, customer_id=ids["customer_id"], directory=tmp_path)

    assert found.contents == [str(old)]


def test_leftovers_of_killed_writers_are_contents(tmp_path, conn, ids, find):
    place = Disk(tmp_path)
    path = Path(store_in(place, **ids).path)
    left = path.rename(path.with_name(".0123456789abcdef.part"))

    assert orphans(place, find, ids).contents == [str(left)]


def test_rows_elsewhere_are_looked_at_too(place, conn, ids, find, tmp_path):
    elsewhere = [store(path=tmp_path / name) for name in ("there.txt", "gone.txt")]
    elsewhere += [store(path=f"memory://{uuid4()}") for _ in range(2)]
    rows = [register(conn, stored, ids) for stored in elsewhere]
    unknown = StoredContent("nowhere://x/y", 1, bytes(32), "text/plain")
    rows.append(register(conn, unknown, ids))
    Path(elsewhere[1].path).unlink()
    Fsspec("memory://").delete(elsewhere[3].path)
    store_in(place)  # so that the directory is there

    found = orphans(place, find, ids)

    assert found.rows == [rows[3], rows[1]]
    assert [(check.artifact, check.problem) for check in found.unreadable] == [
        (rows[4], "unreadable")
    ]
    assert "nowhere" in found.unreadable[0].detail
    assert found.contents == []


def test_many_rows_of_all_types_are_read_page_by_page(tmp_path, conn, ids, find, monkeypatch):
    monkeypatch.setattr(artifacts, "_PAGE_ROWS", 2)
    place = Disk(tmp_path)
    for number in range(5):
        for artifact_type in ArtifactType:
            stored = store_in(place, f"{artifact_type}{number}".encode(), **ids)
            register(conn, stored, ids, artifact_type=artifact_type)
    lost = store_in(place, b"lost", **ids)

    assert orphans(place, find, ids) == artifacts.Orphans([], [lost.path], [])
    for path in place.paths():
        Path(path).unlink()
    assert len(orphans(place, find, ids).rows) == 40


def test_content_is_known_by_any_way_that_leads_to_it(tmp_path, conn, ids, find):
    place = Disk(tmp_path / "store")
    stored = store_in(place, **ids)
    (tmp_path / "link").symlink_to(tmp_path / "store")
    way_round = stored.path.replace("/store/", "/link/../store/")
    register(conn, stored, ids)

    assert orphans(place, find, ids, directory=tmp_path / "link").contents == []
    assert orphans(place, find, ids, directory=f"file://{tmp_path}/store/").contents == []
    workflow_artifacts.delete_workflow_artifact(
        conn, **ids, id=workflow_artifacts.list_workflow_artifacts(conn, **ids)[0].id
    )
    register(conn, StoredContent(f"file://{way_round}", 7, stored.sha256, "x/y"), ids)
    assert orphans(place, find, ids) == artifacts.Orphans([], [], [])


def test_another_name_of_the_same_protocol_is_the_same_place(s3_options, conn, ids, find):
    place = Fsspec(f"s3://bucket/{uuid4()}", s3_options)
    stored = store_in(place, **ids)
    path = stored.path.replace("s3://", "s3a://")
    register(conn, StoredContent(path, stored.size_bytes, stored.sha256, "x/y"), ids)

    assert orphans(place, find, ids) == artifacts.Orphans([], [], [])


def test_a_mark_of_a_folder_is_no_content(s3_options, conn, ids, find):
    place = Fsspec(f"s3://bucket/{uuid4()}", s3_options)
    key = f"{place.root.removeprefix('bucket/')}/{ids['customer_id']}/"
    place.fs.call_s3("put_object", Bucket="bucket", Key=key, Body=b"")

    assert orphans(place, find, ids) == artifacts.Orphans([], [], [])


def test_a_customer_without_content_has_no_orphans(place, conn, ids, find):
    store_in(place)
    assert orphans(place, find, ids) == artifacts.Orphans([], [], [])


def test_a_store_that_is_not_there_is_an_error(s3_options, tmp_path, conn, ids, find):
    for url, options in ((f"{tmp_path}/none", None), ("s3://nobucket/x", s3_options)):
        with pytest.raises(ArtifactStoreError, match=rf"{url}.* cannot be listed: "):
            find(
                customer_id=ids["customer_id"],
                directory=url,
                storage_options=options,
            )
