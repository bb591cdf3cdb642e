"""Reads the request, runs the steps, writes the answer, or says what is wrong."""

import base64
import json
from typing import BinaryIO, TextIO

from .config import parse_config
from .model import build
from .problems import InvalidRequestError, Problems
from .render import render
from .request import parse_request


def main(stdin: BinaryIO, stdout: BinaryIO, stderr: TextIO) -> int:
    """Answer sqlc; the exit status is 1 when the request cannot be answered."""
    problems = Problems()
    files: dict[str, str] = {}
    try:
        request = parse_request(stdin.read())
        config = parse_config(request.options, problems)
        package = build(request, config, problems)
        if not problems.lines:
            files = render(package, config)
    except InvalidRequestError as error:
        problems.add("sqlc-gen-psycopg", str(error))
    if problems.lines:
        stderr.write("".join(f"{line}\n" for line in problems.lines))
        return 1
    answer = {
        "files": [
            {"name": name, "contents": base64.b64encode(text.encode()).decode()}
            for name, text in sorted(files.items())
        ]
    }
    stdout.write(json.dumps(answer).encode())
    return 0
