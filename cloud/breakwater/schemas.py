"""The bodies of Breakwater's routes. They stand in `cloud.issuing`, since those who ask use them too."""

from cloud.issuing import (
    PATH_CLOSE,
    PATH_CLOSE_ONE,
    PATH_DEVICE,
    PATH_OPEN,
    PATH_RENEW_DEVICE,
    PATH_REVOKED_SERVICES,
    PATH_SERVICE,
    PATH_SESSION,
    CloseGeneration,
    CloseGenerations,
    GenerationOpened,
    GenerationsClosed,
    IssueNodeCertificate,
    IssueServiceCertificate,
    OpenGeneration,
    RevokedServices,
)
from protocol.sessions import Certificate, RenewDevice

__all__ = [
    "PATH_CLOSE",
    "PATH_CLOSE_ONE",
    "PATH_DEVICE",
    "PATH_OPEN",
    "PATH_RENEW_DEVICE",
    "PATH_REVOKED_SERVICES",
    "PATH_SERVICE",
    "PATH_SESSION",
    "Certificate",
    "CloseGeneration",
    "CloseGenerations",
    "GenerationOpened",
    "GenerationsClosed",
    "IssueNodeCertificate",
    "IssueServiceCertificate",
    "OpenGeneration",
    "RenewDevice",
    "RevokedServices",
]
