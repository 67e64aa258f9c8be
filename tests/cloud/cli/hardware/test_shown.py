"""`cloud.cli.hardware.shown`: a tenant's trust as text, and the warning about makers with several EK types."""

from typing import Any

import msgspec

from cloud.cli.hardware.shown import trust_lines, two_types
from cloud.fabric import schemas
from tests.cloud.cli.hardware.test_imports import TRUST, root_of


def trust(**changes: Any) -> schemas.TenantTrust:
    return msgspec.convert({**TRUST, **changes}, schemas.TenantTrust)


def test_a_tenant_without_hardware() -> None:
    assert trust_lines(trust()) == (
        "tiers: attested\napproval: by the code\nPCR quotes: every other profile: report\n\n"
        "roots: (none)\n\nallowed EKs: (none)"
    )


def test_eks_that_are_not_shown_are_counted() -> None:
    assert trust_lines(trust(ek_allowed_total=600)).endswith("and 600 more: `cascade hardware list-eks TENANT`")


def test_a_maker_with_two_types_is_a_warning() -> None:
    roots = [
        root_of(b"1", maker="infineon"),
        root_of(b"2", "ecc_p256", maker="infineon"),
        root_of(b"3", "ecc_p384", maker="infineon", root=False),
        root_of(b"4", maker="unknown"),
        root_of(b"5", "ecc_p256", maker="unknown"),
    ]
    (warning,) = two_types(trust(ek_roots=roots))
    assert warning.startswith("the roots of infineon name several EK types: ecc_p256, rsa2048.")
