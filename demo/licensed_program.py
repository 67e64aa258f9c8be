"""A sample of licensed software: it works while the agent grants its entitlement. It needs only `httpx`.

A vendor's program asks the socket, keeps the last answer until its `valid_until`, and stops when it is denied. This
program prints a line when the answer changes: `granted` with the limit if there is one, or `denied`. A real program
counts what it uses, and stops at the limit.
"""

import sys
import time
from datetime import UTC, datetime

import httpx

DENIED = "denied"


def ask(socket: str, entitlement: str) -> tuple[str, datetime] | None:
    """The answer as a line, and until when it is valid. None if no agent answers."""
    # A unix socket has no TLS: with these arguments the library reads no CA file and no variable of the environment.
    transport = httpx.HTTPTransport(uds=socket, verify=False, trust_env=False)
    try:
        with httpx.Client(transport=transport, trust_env=False) as client:
            answer = client.get(f"http://cascadia/v1/entitlements/{entitlement}").json()
        valid_until = datetime.fromisoformat(answer["valid_until"])
        if not answer["granted"]:
            return DENIED, valid_until
        limit = answer.get("limit")  # an older agent has none
        return "granted" if limit is None else f"granted, limit {limit}", valid_until
    except (httpx.HTTPError, KeyError, ValueError):
        return None


def main(socket: str, entitlement: str) -> None:
    line, until, printed = DENIED, datetime.now(UTC), ""
    while True:
        answer = ask(socket, entitlement)
        if answer is not None:
            line, until = answer
        elif datetime.now(UTC) >= until:
            line = DENIED
        if line != printed:
            print(line, flush=True)
            printed = line
        time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
