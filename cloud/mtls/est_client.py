"""Adapter: EST (RFC 7030) over mutual TLS. A service gets its next certificate from Breakwater."""

import msgspec
from cryptography import x509

from cloud.crypto.spki import spki_of
from cloud.mtls.client import Answer, AnswerUnusable, CloudClient
from protocol.messages.est import (
    HEADER_REQUEST,
    PATH_CACERTS,
    PATH_SIMPLEREENROLL,
    TYPE_PKCS10,
    EstError,
    decode_certs_only,
    encode_base64,
    leaf_first,
    media_type,
)


class EstClient:
    """Adapter of the port `renewal.IssuerClient`. Calls are made over the connection of the service that renews."""

    def __init__(self, client: CloudClient) -> None:
        self._client = client

    async def reenroll(self, csr: bytes, request: str) -> bytes:
        """Return the next certificate (DER) of the service that owns the connection.

        A repeat with the same `request` gets the same certificate. Raises CallError.
        """
        headers = {"Content-Type": TYPE_PKCS10, HEADER_REQUEST: request}
        answer = await self._client.call("POST", PATH_SIMPLEREENROLL, encode_base64(csr), headers=headers)
        try:
            return leaf_first(_certificates(answer), spki_of(x509.load_der_x509_csr(csr).public_key()))[0]
        except EstError as error:
            raise AnswerUnusable(f"cannot use the issuer's answer: {error}") from error

    async def ca_certificates(self) -> tuple[bytes, ...]:
        """Return the CAs that Breakwater trusts, in DER and in no order. Raises CallError."""
        try:
            return _certificates(await self._client.call("GET", PATH_CACERTS))
        except EstError as error:
            raise AnswerUnusable(f"cannot use the issuer's answer: {error}") from error


def _certificates(answer: Answer) -> tuple[bytes, ...]:
    """Return the certificates in an answer. Raises ProblemAnswer, AnswerUnusable, EstError."""
    if answer.status >= 400:
        answer.into(msgspec.Raw)
    if answer.status != 200 or media_type(answer.headers.get("content-type", "")) != "application/pkcs7-mime":
        raise EstError(f"it is not application/pkcs7-mime with status 200 (status {answer.status})")
    return decode_certs_only(answer.body)
