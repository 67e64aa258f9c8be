"""Errors of fetching trust. What was published before is intact in both cases.

    VerificationFailed
    └── TrustError         what was fetched does not verify: pin, signature, version, hash, date, size or form
    Unreachable
    └── TrustUnreachable   nothing usable was fetched

What is on the disk and cannot be read or written is a StateError, as for all state.
"""

from node.errors import Unreachable, VerificationFailed


class TrustError(VerificationFailed):
    """What the repository serves does not verify under the pin."""

    code = "trust_unverified"
    next = (
        "Check that the activation file is of this cloud, that the clock is right, and that nothing intercepts the "
        "connection."
    )


class TrustUnreachable(Unreachable):
    """The repository gave no usable answer. Says nothing about what is stored."""

    code = "trust_unreachable"
    next = "Check the network and the repository's address; a running agent asks again by itself."
