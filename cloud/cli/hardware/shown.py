"""Pure functions: the hardware that a tenant trusts, and its policies for machines, as text for people."""

import msgspec

from cloud.cli.show import columns
from cloud.fabric import schemas

MORE = "and {more} more: `cascade hardware list-eks TENANT`"


def trust_lines(found: schemas.TenantTrust) -> str:
    """The policies, the makers' CA certificates, and the allowed EKs."""
    roots = columns(
        ("root or intermediate", "maker", "root", "ek type", "until", "sha256"),
        *("subject", "maker", "root", "ek_type", "not_after", "sha256"),
    )(found.ek_roots)
    allowed = columns(("allowed ek", "note"), "ek_name", "note")(found.ek_allowed)
    shown = f"{policy_lines(found)}\n\nroots: {_below(roots)}\n\nallowed EKs: {_below(allowed)}"
    more = found.ek_allowed_total - len(found.ek_allowed)
    return f"{shown}\n{MORE.format(more=more)}" if more > 0 else shown


def policy_lines(found: schemas.TenantTrust) -> str:
    """The tiers, who approves, the dates of leases, and the policies for PCR quotes."""
    policies = {"": "report", **found.pcr_policies}
    pcrs = ", ".join(f"{name or 'every other profile'}: {policies[name]}" for name in sorted(policies, reverse=True))
    lease = "".join(f"\nlease of {tier}: {_dates(terms)}" for tier, terms in sorted(found.lease_terms.items()))
    return (
        f"tiers: {', '.join(found.tiers)}\napproval: {', '.join(found.approval_tiers) or 'by the code'}{lease}\n"
        f"PCR quotes: {pcrs}"
    )


def two_types(trust: schemas.TenantTrust) -> list[str]:
    """A warning for each maker whose roots name several EK types: one of its chips could be two nodes."""
    types: dict[str, set[str]] = {}
    for each in trust.ek_roots:
        if each.root and each.maker:
            types.setdefault(each.maker, set()).add(each.ek_type)
    return [
        f"the roots of {maker} name several EK types: {', '.join(sorted(found))}. A chip with keys of several types "
        "could activate as several nodes. Trust the roots of one maker for one type."
        for maker, found in sorted(types.items())
        if len(found) > 1 and maker != "unknown"
    ]


def _dates(terms: schemas.LeaseTerms) -> str:
    """The four dates of a lease in seconds, separated by commas."""
    return ",".join(map(str, msgspec.structs.astuple(terms)))


def _below(shown: str) -> str:
    """Return a table on the lines below its label, and the text of an empty table on the same line."""
    return f"\n{shown}" if "\n" in shown else shown
