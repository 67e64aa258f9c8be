"""The bodies of Breakwater's routes. They stand in `cloud.issuing`, since those who ask use them too."""

from cloud.issuing import (
    PATH_CLOSE,
    PATH_CLOSE_ONE,
    PATH_DEVICE,
    PATH_OPEN,
    PATH_SESSION,
    CloseGeneration,
    CloseGenerations,
    GenerationOpened,
    GenerationsClosed,
    IssueNodeCertificate,
    OpenGeneration,
)
from protocol.sessions import Certificate

__all__ = [
    "PATH_CLOSE",
    "PATH_CLOSE_ONE",
    "PATH_DEVICE",
    "PATH_OPEN",
    "PATH_SESSION",
    "Certificate",
    "CloseGeneration",
    "CloseGenerations",
    "GenerationOpened",
    "GenerationsClosed",
    "IssueNodeCertificate",
    "OpenGeneration",
]
