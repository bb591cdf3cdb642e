"""What is wrong with a request, gathered so that one run reports all of it."""


class Problems:
    """A list of complaints, each one line that names the place and says what to do."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, place: str, complaint: str) -> None:
        """Record that something at `place` (an option, a table, a file and query) is wrong."""
        line = " ".join(f"{place}: {complaint}".split())
        if line not in self.lines:
            self.lines.append(line)


class InvalidRequestError(Exception):
    """The request is not one that sqlc sends."""
