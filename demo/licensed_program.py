"""A sample of licensed software: works while the agent grants its entitlement, and says so. Nothing but `httpx`.

This is all that a vendor's program does: ask the socket, keep the last answer until its `valid_until`, stop when it
is denied. It prints one line whenever the answer changes: `granted` or `denied`.
"""

import sys
import time
from datetime import UTC, datetime

import httpx


def ask(socket: str, entitlement: str) -> tuple[bool, datetime] | None:
    """Whether it is granted and until when that counts; None when no agent answers."""
    try:
        with httpx.Client(transport=httpx.HTTPTransport(uds=socket), trust_env=False) as client:
            answer = client.get(f"http://cascadia/v1/entitlements/{entitlement}").json()
        return bool(answer["granted"]), datetime.fromisoformat(answer["valid_until"])
    except (httpx.HTTPError, KeyError, ValueError):
        return None


def main(socket: str, entitlement: str) -> None:
    granted, until, told = False, datetime.now(UTC), ""
    while True:
        answer = ask(socket, entitlement)
        if answer is not None:
            granted, until = answer
        elif datetime.now(UTC) >= until:
            granted = False
        word = "granted" if granted else "denied"
        if word != told:
            print(word, flush=True)
            told = word
        time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
