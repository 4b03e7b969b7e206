"""The fleet of the release before, played by its own code.

Its own Python runs this file, with its own ``fixtures.fleet``: how its processes are
started is its own affair. One call a line on standard input, as JSON; one answer a line
on standard output. When the input ends, so does the fleet.
"""

import json
import signal
import sys
from typing import Any

from fixtures.fleet import Fleet


def answer(fleet: Fleet, call: dict[str, Any]) -> object:
    """Do one call: a method of the fleet, or one of its attributes."""
    found = getattr(fleet, call["name"])
    return found(*call["args"], **call["kwargs"]) if callable(found) else found


def main() -> None:
    """Serve calls until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests
    fleet = Fleet(**json.loads(sys.argv[1]))
    try:
        for line in sys.stdin:
            try:
                said: dict[str, object] = {"value": answer(fleet, json.loads(line))}
            except Exception as error:  # noqa: BLE001  # the tests see it
                said = {"error": f"{type(error).__name__}: {error}"}
            sys.stdout.write(f"{json.dumps(said)}\n")
            sys.stdout.flush()
    finally:
        fleet.close()


if __name__ == "__main__":
    main()
