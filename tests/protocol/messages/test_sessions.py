"""Messages of a session: the proof by the node key."""

import msgspec
import pytest

from protocol.encoding import json_decode, json_encode
from protocol.messages.sessions import TYP_SESSION_PROOF, ProofClaims, ProofError, open_proof
from tests.protocol.vectors import examples
from tests.protocol.vectors.__main__ import vectors

VECTORS = vectors()


def test_proof_vector_verifies() -> None:
    claims = open_proof(VECTORS["session-proof"]["token"], examples.KEYS["node"].public_key())
    assert claims == examples.proof_claims()


def test_proofs_are_for_the_node_key_and_strict() -> None:
    with pytest.raises(ProofError):
        open_proof(VECTORS["session-proof"]["token"], examples.KEYS["lease"].public_key())
    with pytest.raises(ProofError):
        open_proof(VECTORS["session-proof"]["token"], "not a key")
    claims = json_encode(examples.proof_claims())[:-1] + b',"more":1}'
    with pytest.raises(ProofError):
        open_proof(examples.seal(TYP_SESSION_PROOF, "node", claims), examples.KEYS["node"].public_key())
    assert json_decode(json_encode(examples.proof_claims()), ProofClaims) == examples.proof_claims()


def test_a_proof_carries_development_mode_and_leaves_production_mode_out() -> None:
    """An agent that does not report its mode sends the same bytes as an agent in production mode."""
    production = examples.proof_claims()
    assert production.development is msgspec.UNSET
    assert b"development" not in json_encode(production)
    development = msgspec.structs.replace(production, development=True)
    token = examples.seal(TYP_SESSION_PROOF, "node", json_encode(development))
    assert open_proof(token, examples.KEYS["node"].public_key()) == development
    wrong = json_encode(production)[:-1] + b',"development":"yes"}'
    with pytest.raises(ProofError):
        open_proof(examples.seal(TYP_SESSION_PROOF, "node", wrong), examples.KEYS["node"].public_key())
