"""Background task: warn an operator before the published CRL of a root is missing, ends or lacks a revoked CA.

Only a ceremony signs a root's CRL, because the root's key is offline. So the process can warn and cannot repair.
"""

import logging
from collections.abc import Callable
from datetime import datetime, timedelta

from cloud.breakwater.revocation.root_crls import Found, RootCrls
from cloud.http.readiness import Fault

log = logging.getLogger("cascade.breakwater")

CHECK_SECONDS = 60.0
"""Interval of the checks. Each one reads the newest CRL of each root."""
LOG_EVERY = timedelta(days=1)
"""A finding that stays is logged once in this time."""
NEXT = (
    "Run `cascade pki crl --ceremony DIR`, hold that ceremony with the root's key, and publish its CRL with "
    "`cascade pki crl --import FILE`."
)


class RootCrlWatch:
    """The last findings about the roots' CRLs."""

    def __init__(self, root_crls: RootCrls, now: Callable[[], datetime]) -> None:
        self._root_crls = root_crls
        self._now = now
        self._found: list[Found] = []
        self._logged: dict[tuple[str, str], datetime] = {}

    @property
    def missing(self) -> tuple[str, ...]:
        """The roots whose CRL is named by a certificate and not published."""
        return tuple(root for check, root, _, _ in self._found if check == "crl.root_missing")

    async def check(self) -> None:
        """Check the CRLs. Log each finding when it is new, then once a day. Raises StorageError."""
        self._found = await self._root_crls.faults()
        now = self._now()
        before = self._logged
        self._logged = {}
        for check, root, text, _ in self._found:
            said = before.get((check, root))
            if said is None or now - said >= LOG_EVERY:
                said = now
                log.warning(
                    "the revocation list of a root needs an operator",
                    extra={"check": check, "authority": root, "cause": text, "next": NEXT},
                )
            self._logged[check, root] = said

    async def probe(self) -> tuple[Fault, ...]:
        """Return the last findings for readiness. Those that do not fail yet are warnings."""
        return tuple(
            Fault("root_crl", check.replace(".", "_"), f"{root}: {text}", NEXT, needed=False, failing=not warns)
            for check, root, text, warns in self._found
        )
