"""Port: Breakwater, which opens and closes generations and issues certificates. With the adapter over mutual TLS.

Breakwater's commands are idempotent, so a caller that does not know the outcome of a call repeats the call. This
module retries nothing. A refusal that Breakwater will repeat raises `IssuerRefused`. Every other failure raises
`IssuerUnavailable`.
"""

from datetime import datetime
from typing import Protocol, TypeVar

from cloud.contracts.breakwater import (
    PATH_CLOSE,
    PATH_CLOSE_ONE,
    PATH_DEVICE,
    PATH_GENERATIONS,
    PATH_OPEN,
    PATH_SESSION,
    PATH_SUPERSEDE_KEYS,
    CloseGeneration,
    CloseGenerations,
    GenerationOpened,
    GenerationsClosed,
    GenerationsPage,
    IssueNodeCertificate,
    KeysSuperseded,
    OpenGeneration,
    SupersedeKeys,
)
from cloud.fabric.errors import IssuerRefused, IssuerUnavailable, TooOften
from cloud.mtls.client import CallError, CloudClient, ProblemAnswer
from protocol.faults import fault_point
from protocol.ids import NodeId, TenantId
from protocol.messages.sessions import Certificate
from protocol.problems import KINDS

T = TypeVar("T")

ISSUER_SECONDS = 10.0
"""Time limit of one call. Breakwater issues within milliseconds, and a node waits for the result of the call."""


RETRY_SECONDS = 30.0
"""The wait of a node that Breakwater's limit refuses. A node gets one session in this time."""


class Issuer(Protocol):
    """The commands of Breakwater that Fabric calls. Every method raises IssuerRefused, IssuerUnavailable, TooOften."""

    async def list_generations(self, cursor: str) -> GenerationsPage:
        """A page of the generations of all nodes. `cursor` is that of the page before, empty for the first page."""

    async def open_generation(self, tenant: TenantId, node: NodeId, generation: int) -> None:
        """Open a generation. Idempotent. Breakwater refuses with `conflict` once the generation is closed."""

    async def close_generations(self, tenant: TenantId, node: NodeId, up_to: int) -> None:
        """Close every generation of the node up to and including `up_to`. Final and idempotent."""

    async def close_generation(self, tenant: TenantId, node: NodeId, generation: int) -> None:
        """Close this generation only; earlier generations stay open. Final and idempotent."""

    async def supersede_keys(self, tenant: TenantId, node: NodeId, generation: int, spki_sha256: str) -> None:
        """Revoke the generation's device certificates for other keys that are older than the newest certificate for
        the key `spki_sha256`. Final and idempotent."""

    async def issue_device(
        self, request: str, tenant: TenantId, node: NodeId, generation: int, csr: bytes, not_after: datetime
    ) -> Certificate:
        """Issue a device certificate. A repeated `request` id returns the same certificate. `csr` is DER."""

    async def issue_session(
        self, request: str, tenant: TenantId, node: NodeId, generation: int, csr: bytes, not_after: datetime
    ) -> Certificate:
        """Issue a session certificate. `not_after` is the end of the device certificate. `csr` is DER."""


class HttpIssuer:
    """Adapter: calls Breakwater over HTTP and mutual TLS."""

    def __init__(self, client: CloudClient) -> None:
        self._client = client

    async def list_generations(self, cursor: str) -> GenerationsPage:
        return await self._call("GET", f"{PATH_GENERATIONS}?cursor={cursor}", None, GenerationsPage)

    async def open_generation(self, tenant: TenantId, node: NodeId, generation: int) -> None:
        with fault_point("fabric.generation.open"):
            await self._post(PATH_OPEN, OpenGeneration(tenant, node, generation), GenerationOpened)

    async def close_generations(self, tenant: TenantId, node: NodeId, up_to: int) -> None:
        with fault_point("fabric.generation.close"):
            await self._post(PATH_CLOSE, CloseGenerations(tenant, node, up_to), GenerationsClosed)

    async def close_generation(self, tenant: TenantId, node: NodeId, generation: int) -> None:
        with fault_point("fabric.generation.close_one"):
            await self._post(PATH_CLOSE_ONE, CloseGeneration(tenant, node, generation), GenerationsClosed)

    async def supersede_keys(self, tenant: TenantId, node: NodeId, generation: int, spki_sha256: str) -> None:
        with fault_point("fabric.keys.supersede"):
            await self._post(PATH_SUPERSEDE_KEYS, SupersedeKeys(tenant, node, generation, spki_sha256), KeysSuperseded)

    async def issue_device(
        self, request: str, tenant: TenantId, node: NodeId, generation: int, csr: bytes, not_after: datetime
    ) -> Certificate:
        body = IssueNodeCertificate(request, tenant, node, generation, csr, not_after)
        with fault_point("fabric.certificate.request"):
            return await self._post(PATH_DEVICE, body, Certificate)

    async def issue_session(
        self, request: str, tenant: TenantId, node: NodeId, generation: int, csr: bytes, not_after: datetime
    ) -> Certificate:
        body = IssueNodeCertificate(request, tenant, node, generation, csr, not_after)
        with fault_point("fabric.session.request"):
            return await self._post(PATH_SESSION, body, Certificate)

    async def _post(self, path: str, body: object, kind: type[T]) -> T:
        return await self._call("POST", path, body, kind)

    async def _call(self, method: str, path: str, body: object, kind: type[T]) -> T:
        try:
            return (await self._client.call(method, path, body, seconds=ISSUER_SECONDS)).into(kind)
        except ProblemAnswer as answer:
            known = KINDS.get(answer.problem.code)
            if answer.problem.code == "rate_limited":
                raise TooOften(answer.problem.detail, RETRY_SECONDS) from answer
            if known is None or not known.conclusive:
                raise IssuerUnavailable(str(answer)) from answer
            raise IssuerRefused(answer.problem.code, answer.problem.detail) from answer
        except CallError as error:
            raise IssuerUnavailable(str(error)) from error
