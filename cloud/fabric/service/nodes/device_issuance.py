"""Pure: what Breakwater's refusal of a device certificate means to the exchange that asked for it."""

from collections.abc import Iterator
from contextlib import contextmanager

from cloud.fabric.errors import ActivationClosed, CsrRefused, IssuerRefused


@contextmanager
def issuer_refusals_of(exchange: str) -> Iterator[None]:
    """Turn the refusals that an exchange ("activation", "renewal") expects from the issuer into its own.

    Raises CsrRefused, ActivationClosed; IssuerRefused where the exchange did not expect it.
    """
    try:
        yield
    except IssuerRefused as error:
        if error.code == "csr_refused":
            raise CsrRefused(error.detail) from error
        if error.code in ("conflict", "generation_closed"):
            raise ActivationClosed(f"the generation of this {exchange} was closed meanwhile") from error
        raise
