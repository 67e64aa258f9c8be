"""Shared by the tests of the routes: calls, and the codes of refusals."""

from datetime import timedelta

import pytest

from cloud.mtls.client import Answer, CloudClient, ProblemAnswer
from protocol.messages.est import (
    PATH_SIMPLEREENROLL,
    TYPE_PKCS10,
    encode_base64,
)
from protocol.messages.sessions import Certificate
from protocol.problems import ProblemDocument
from tests.documented import check_problem

DAYS_90 = timedelta(days=90)


async def renew(client: CloudClient, csr: bytes) -> Answer:
    return await client.call("POST", PATH_SIMPLEREENROLL, encode_base64(csr), headers={"Content-Type": TYPE_PKCS10})


async def refused(client: CloudClient, method: str, path: str, body: object = None) -> ProblemDocument:
    with pytest.raises(ProblemAnswer) as caught:
        (await client.call(method, path, body)).into(Certificate)
    check_problem("breakwater", method, path, caught.value.problem)
    return caught.value.problem
