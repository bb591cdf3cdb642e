"""Verify an audit bundle of OptiInfra, with nothing but Python 3.9 or later.

    python verify_bundle.py bundle.json [--head NUMBER:HASH] [--artifacts DIRECTORY]

It proves that each event in the bundle is one that was sealed, that the chain of seals is whole
from its first, that the rows say what the last event about them says, and that the digests of
artifacts are those of the files in DIRECTORY. What proves the chain is a head that was kept
elsewhere: give it with --head, else the bundle proves itself only. Exit codes: 0 all is as it was
sealed; 1 something is not; 2 wrong usage, or no bundle.

This file needs no other: copy it to wherever it is needed.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import sys
from pathlib import Path
from typing import Any

Records = list[dict[str, Any]]
Sealed = dict[tuple[str, str], str]

SUBJECTS = {
    "workflow_executions": "workflow_execution",
    "workflow_steps": "workflow_step",
    "recommendations": "recommendation",
    "approvals": "approval",
    "optimizations": "optimization",
}
NOTHING = "00" * 32


class NotABundle(Exception):  # noqa: N818
    """The file is no bundle, or not the whole of one."""


def main() -> int:
    """Run from the command line."""
    parser = argparse.ArgumentParser(
        description="Verify an audit bundle of OptiInfra.",
        epilog="Exit codes: 0 all is as it was sealed; 1 something is not; 2 no bundle.",
    )
    parser.add_argument("bundle", type=Path, help="the file, .gz or not")
    parser.add_argument(
        "--head", metavar="NUMBER:HASH", help="a seal that was kept elsewhere, of this customer"
    )
    parser.add_argument(
        "--artifacts", type=Path, metavar="DIRECTORY", help="compare the files there, by name"
    )
    options = parser.parse_args()
    try:
        records = read(options.bundle)
    except (OSError, EOFError, ValueError, NotABundle) as error:
        print(f"{options.bundle}: not a whole bundle: {error}", file=sys.stderr)
        return 2
    problems, notes = verify(records, options.head, options.artifacts)
    for problem in problems:
        print(f"WRONG: {problem}")
    for note in notes:
        print(f"note: {note}")
    count = sum(record["kind"] == "event" for record in records)
    print(f"{len(problems)} problems." if problems else f"OK: {count} events, as they were sealed.")
    return 1 if problems else 0


def read(path: Path) -> Records:
    """Return the records of a bundle, each a dict with its kind. Raises NotABundle, OSError."""
    data = path.read_bytes()
    if data[:2] == b"\x1f\x8b":
        data = gzip.decompress(data)
    lines = data.split(b"\n")
    if lines.pop() != b"" or not lines:
        raise NotABundle("it does not end with a line")
    records = [json.loads(line) for line in lines]
    if not all(isinstance(record, dict) and "kind" in record for record in records):
        raise NotABundle("it has lines of another kind")
    first, last = records[0], records[-1]
    if first["kind"] != "bundle" or first.get("format") != 1:
        raise NotABundle("it does not begin as bundles of format 1 do")
    body = data[: len(data) - len(lines[-1]) - 1]
    if last["kind"] != "end" or last.get("lines") != len(records) - 1:
        raise NotABundle("its end is missing")
    if last.get("sha256") != hashlib.sha256(body).hexdigest():
        raise NotABundle("its content is not that of which it has the SHA-256")
    return records


def verify(
    records: Records, head: str | None = None, artifacts: Path | None = None
) -> tuple[list[str], list[str]]:
    """Return what is wrong, and what cannot be said, each as a list of sentences."""
    problems: list[str] = []
    notes: list[str] = []
    try:
        _verify(records, head, artifacts, problems, notes)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problems.append(f"a record is not as it should be: {type(error).__name__}: {error}")
    return problems, notes


def _verify(
    records: Records,
    head: str | None,
    artifacts: Path | None,
    problems: list[str],
    notes: list[str],
) -> None:
    about = records[0]
    of_kind: dict[str, Records] = {}
    for record in records:
        of_kind.setdefault(record["kind"], []).append(record)
    hashes = _verify_chain(about, of_kind.get("seal", []), problems)
    if head:
        number, _, digest = head.partition(":")
        if hashes.get(int(number)) != digest.lower():
            problems.append(f"seal {number} of the chain is not the head that was kept")
    elif hashes:
        last = max(hashes)
        notes.append(f"compare the head yourself: {last}:{hashes[last]}")
    sealed = _sealed(of_kind, problems)
    events = _verify_events(about, of_kind.get("event", []), sealed, problems, notes)
    if about["workflow_execution_id"] is None:
        there = {(event["id"], event["created_at"]) for event in events}
        problems.extend(
            f"event {event_id} of {time} is sealed, and missing here"
            for event_id, time in sealed
            if (event_id, time) not in there
        )
    _verify_rows(of_kind.get("row", []), events, problems)
    if artifacts is not None:
        _verify_artifacts(of_kind.get("row", []), artifacts, problems)


def _verify_chain(about: dict[str, Any], seals: Records, problems: list[str]) -> dict[int, str]:
    """Compute the hash of each seal; return those of all, by number."""
    hashes: dict[int, str] = {}
    former = NOTHING
    for place, seal in enumerate(seals, 1):
        text = (
            "optiinfra seal 1\n"
            f"customer {about['customer_id']}\n"
            f"number {seal['seal_number']}\n"
            f"events {seal['events_hash']}\n"
            f"previous {seal['previous_hash']}\n"
        )
        if seal["seal_number"] != place:
            problems.append(f"seal {place} is missing from the chain")
            break
        if hashlib.sha256(text.encode()).hexdigest() != seal["hash"]:
            problems.append(f"seal {place} was changed")
        if seal["previous_hash"] != former:
            problems.append(f"seal {place} does not go on from the one before")
        former = hashes[place] = seal["hash"]
    return hashes


def _sealed(of_kind: dict[str, Records], problems: list[str]) -> Sealed:
    """Return the digests of sealed events, by id and time, from seals that are what they were."""
    expected = {seal["seal_number"]: seal["events_hash"] for seal in of_kind.get("seal", [])}
    sealed: Sealed = {}
    for entries in of_kind.get("entries", []):
        text = "".join(f"{id_} {time} {digest}\n" for id_, time, digest in entries["events"])
        number = entries["seal_number"]
        if hashlib.sha256(text.encode()).hexdigest() != expected.get(number):
            problems.append(f"what seal {number} covers was changed")
            continue
        sealed.update({(id_, time): digest for id_, time, digest in entries["events"]})
    return sealed


def _verify_events(
    about: dict[str, Any],
    records: Records,
    sealed: Sealed,
    problems: list[str],
    notes: list[str],
) -> Records:
    events, unsealed = [], 0
    for record in records:
        event = json.loads(record["text"])
        events.append(event)
        name = f"event {event['id']} of {event['created_at']}"
        digest = sealed.get((event["id"], event["created_at"]))
        if event["customer_id"] != about["customer_id"]:
            problems.append(f"{name} is of another customer")
        if digest is None:
            unsealed += 1
        elif hashlib.sha256(record["text"].encode()).hexdigest() != digest:
            problems.append(f"{name} was changed")
    if unsealed:
        notes.append(f"{unsealed} events were not sealed yet: nothing proves them")
    return events


def _verify_rows(records: Records, events: Records, problems: list[str]) -> None:
    """Follow the statuses of each thing through its events, up to what its row says."""
    statuses: dict[tuple[str, str, str | None], str] = {}
    for event in events:
        data = event["data"]
        if "from" not in data:
            continue
        key = (event["subject_type"], event["subject_id"], data.get("workflow_execution_id"))
        if key in statuses and data["from"] != statuses[key]:
            problems.append(
                f"{key[0]} {key[1]}: an event is missing between {statuses[key]} and {data['from']}"
            )
        statuses[key] = data["to"]
    for record in records:
        subject_type, row = SUBJECTS.get(record["table"], ""), record["row"]
        run = row.get("workflow_execution_id") if subject_type == "workflow_step" else None
        said = statuses.get((subject_type, row["id"], run))
        if said is not None and said != row["status"]:
            problems.append(
                f"{subject_type} {row['id']} is {row['status']}, and its last event says {said}"
            )


def _verify_artifacts(records: Records, directory: Path, problems: list[str]) -> None:
    for record in records:
        if record["table"] != "workflow_artifacts":
            continue
        path = record["row"]["artifact_path"]
        file = directory / path.rpartition("/")[2]
        if not file.is_file():
            problems.append(f"artifact {path}: there is no {file}")
        elif hashlib.sha256(file.read_bytes()).hexdigest() != record["row"]["sha256"]:
            problems.append(f"artifact {path}: {file} has other content")


if __name__ == "__main__":
    sys.exit(main())
