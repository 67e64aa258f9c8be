"""A sample of licensed software: it works while the agent grants its entitlement. It needs only `httpx`.

A vendor's program asks the socket, keeps the last answer until its `valid_until`, and stops when it is denied. This
program prints a line when the answer changes: `granted` or `denied`.
"""

import sys
import time
from datetime import UTC, datetime

import httpx


def ask(socket: str, entitlement: str) -> tuple[bool, datetime] | None:
    """Whether the entitlement is granted, and until when the answer is valid. None if no agent answers."""
    # A unix socket has no TLS: with these arguments the library reads no CA file and no variable of the environment.
    transport = httpx.HTTPTransport(uds=socket, verify=False, trust_env=False)
    try:
        with httpx.Client(transport=transport, trust_env=False) as client:
            answer = client.get(f"http://cascadia/v1/entitlements/{entitlement}").json()
        return bool(answer["granted"]), datetime.fromisoformat(answer["valid_until"])
    except (httpx.HTTPError, KeyError, ValueError):
        return None


def main(socket: str, entitlement: str) -> None:
    granted, until, printed = False, datetime.now(UTC), ""
    while True:
        answer = ask(socket, entitlement)
        if answer is not None:
            granted, until = answer
        elif datetime.now(UTC) >= until:
            granted = False
        answered = "granted" if granted else "denied"
        if answered != printed:
            print(answered, flush=True)
            printed = answered
        time.sleep(0.2)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
