"""Values: errors of fetching the published trust. The stored trust is intact after both.

    VerificationFailed
    └── TrustError         a fetched file does not verify: pin, signature, version, hash, date, size or form
        └── TrustOlder     the files are older than the trust of this machine
    Unreachable
    └── TrustUnreachable   no usable file was fetched

A file on the disk that cannot be read or written is a StateError, as for all state.
"""

from node.errors import Unreachable, VerificationFailed


class TrustError(VerificationFailed):
    """The files of the repository do not verify, from the pin on, or this agent cannot use them."""

    code = "trust_unverified"
    next = (
        "Check that the activation file is from this cloud, that the clock is right, and that nothing intercepts the "
        "connection."
    )


class TrustOlder(TrustError):
    """The files are older than the stored trust."""

    code = "trust_older"
    next = (
        "Nothing was changed. If the files were carried to this machine, make another request with `cascadia request "
        "--new` and have it answered."
    )


class TrustUnreachable(Unreachable):
    """The repository gave no usable answer."""

    code = "trust_unreachable"
    next = "Check the network and the repository's address. A running agent tries again by itself."
