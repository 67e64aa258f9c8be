"""`protocol.airgap.code_proof`: a request proves its activation code and does not show it."""

import pytest

from protocol.airgap.code_proof import CodeProofInvalid, open_code_proof, proof_key, prove_code
from protocol.codes import make_secret
from protocol.encoding import b64url_encode
from protocol.ids import AirgapRequestId
from protocol.limits import CODE_CHARS_MAX
from tests.protocol.airgap.examples import REQUEST_ID, spki

CODE = make_secret("cac", bytes(range(20)))
OTHER = AirgapRequestId("agr_01jd7xq2vafw6b8tn4rz9k3med")
VECTOR = "09ab24c8c2e8c9ed75b6328094570beaaefcdece9bbfc64bdd3dac41639f9a56"
PROOF = prove_code(CODE, REQUEST_ID, spki())


def test_the_proof_names_the_key_of_the_code_and_not_the_code() -> None:
    assert open_code_proof(PROOF, REQUEST_ID, spki()) == proof_key(CODE)
    assert CODE.removeprefix("cac_") not in PROOF
    assert len(PROOF) <= CODE_CHARS_MAX
    assert proof_key(make_secret("cac", bytes(20))) != proof_key(CODE)


def test_the_key_of_a_code_never_changes() -> None:
    """The cloud has stored it."""
    assert proof_key(CODE) == proof_key(f" {CODE.upper()}\n") == VECTOR


def test_a_proof_is_of_one_request_and_node_key() -> None:
    for text, request, key in ((PROOF, OTHER, spki()), (PROOF, REQUEST_ID, b"another key")):
        with pytest.raises(CodeProofInvalid):
            open_code_proof(text, request, key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        CODE,
        PROOF.partition(".")[0],
        PROOF[:-1],
        PROOF + "AA",
        b64url_encode(bytes(31)) + "." + PROOF.partition(".")[2],
        b64url_encode(bytes(32)) + "." + PROOF.partition(".")[2],
        PROOF.partition(".")[0] + ".!",
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(CodeProofInvalid):
        open_code_proof(text, REQUEST_ID, spki())
