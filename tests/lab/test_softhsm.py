"""`lab.softhsm`: a SoftHSM2 token is made, takes a key, is taken away, put back and deleted."""

import subprocess
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from lab.softhsm import LABEL, MODULE, SoftHsm, token_processes


def shown(hsm: SoftHsm) -> str:
    """The slots as `softhsm2-util` prints them."""
    import os

    environment = {**os.environ, **hsm.environment}
    return subprocess.run(
        ["softhsm2-util", "--show-slots"], env=environment, capture_output=True, text=True, check=True
    ).stdout


def test_a_token_is_made_taken_away_put_back_and_deleted(tmp_path: Path) -> None:
    assert MODULE.exists()
    hsm = SoftHsm(tmp_path / "hsm")
    assert LABEL in shown(hsm)
    hsm.bring("nodes-1", ec.generate_private_key(ec.SECP256R1()))
    hsm.take_away()
    assert not (tmp_path / "hsm" / "tokens").exists()
    hsm.put_back()
    assert LABEL in shown(hsm)
    hsm.delete()
    assert LABEL not in shown(hsm)


def test_two_tokens_are_independent(tmp_path: Path) -> None:
    first, second = SoftHsm(tmp_path / "first"), SoftHsm(tmp_path / "second")
    first.delete()
    assert LABEL in shown(second)


def test_no_token_process_runs_unless_one_was_started() -> None:
    assert token_processes(1) == []
