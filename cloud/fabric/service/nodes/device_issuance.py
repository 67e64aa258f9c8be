"""Pure functions: turn Breakwater's refusal of a device certificate into the refusal of the exchange."""

from collections.abc import Iterator
from contextlib import contextmanager

from cloud.fabric.errors import ActivationClosed, CsrRefused, IssuerRefused


@contextmanager
def issuer_refusals_of(exchange: str) -> Iterator[None]:
    """Translate the issuer's refusals inside the block. `exchange` is "activation" or "renewal", for the text.

    Raises CsrRefused and ActivationClosed. Other refusals pass through as IssuerRefused.
    """
    try:
        yield
    except IssuerRefused as error:
        if error.code == "csr_refused":
            raise CsrRefused(error.detail) from error
        if error.code in ("conflict", "generation_closed"):
            raise ActivationClosed(f"the generation of this {exchange} was closed meanwhile") from error
        raise
