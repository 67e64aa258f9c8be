"""`cascadia identity ek`: what is in the TPM, before an activation and with faults of the NV memory."""

import json
from pathlib import Path

import msgspec
import pytest

from node.cli.identity import EkDocument, human_keys, survey
from node.cli.main import main
from node.hwbind import endorsement
from node.hwbind.errors import TpmHierarchyPassword
from node.hwbind.tpm import Tpm
from protocol.endorsement import TEMPLATES
from tests.node.conftest import Machine
from tests.simulators import chip_memory
from tests.simulators import forged_evidence as forged
from tests.simulators.chip_memory import memory
from tests.simulators.forged_evidence import maker

pytestmark = pytest.mark.slow

RSA, P256, P384 = (TEMPLATES[each] for each in endorsement.EK_TYPES)


async def shown(tpm: Tpm) -> tuple[EkDocument, str]:
    document = await survey(tpm)
    return document, human_keys(msgspec.to_builtins(document))


async def test_the_name_is_the_one_that_an_operator_allows(machine: Machine, tpm: Tpm) -> None:
    document, text = await shown(tpm)
    name = (await tpm.run(endorsement.read_endorsement)).name.hex()
    rsa = document.keys[0]
    assert (rsa.ek_type, rsa.name, document.exit_code) == ("rsa2048", name, 0)
    assert rsa.allow_ek == f"cascade hardware allow-ek TENANT {name}"
    assert rsa.certificate is not None
    assert (rsa.certificate.index, rsa.certificate.issuer, rsa.note) == ("0x01c00002", "CN=swtpm-localca", "")
    assert f"allow by name:    {rsa.allow_ek}" in text
    assert "valid:" in text
    assert [key.allow_ek for key in document.keys[1:]] == [""] * (len(document.keys) - 1)


async def test_what_is_wrong_with_the_certificates_is_said(machine: Machine, tpm: Tpm) -> None:
    other = maker().certify(forged.rsa2048("of another chip").public_key())
    contents = {
        RSA.certificate_index: other,
        P256.certificate_index: b"no certificate",
        P384.certificate_index: None,
        0x01C00018: b"\xff" * 40,
        0x01C00100: maker().root.der,
    }
    with memory(tpm, contents):
        await tpm.run(lambda esys: chip_memory.define(esys, P384.certificate_index, 40))
        document, text = await shown(tpm)
    rsa, p256, p384 = document.keys
    assert "for another key" in rsa.note
    assert p256.certificate is not None
    assert p256.certificate.note.startswith("it is no certificate that can be read")
    assert p384.certificate is not None
    assert p384.certificate.note == "it is defined and was never written"
    assert [each.subject for each in document.ca_certificates] == ["CN=Maker Root"]
    assert [(each.index, each.note) for each in document.other_indices if each.index < "0x01c00100"] == [
        ("0x01c00018", "the index has no content, only padding")
    ]
    assert document.exit_code == 0
    assert "chip's CA:" in text


async def test_a_key_that_is_not_made_has_the_cause_and_the_cure(
    machine: Machine, tpm: Tpm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise TpmHierarchyPassword("0x9a2", "endorsement")

    monkeypatch.setattr(endorsement, "read_endorsement", refused)
    document, text = await shown(tpm)
    assert document.exit_code == 87
    assert "endorsement hierarchy has a password" in document.keys[0].note
    assert "tpm_endorsement_auth" in text
    assert document.keys[0].certificate is not None


@pytest.mark.slow
def test_the_command_needs_no_activation(machine: Machine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "cascadia.toml"
    settings.write_text(
        f'state_dir = "{tmp_path}/s"\nsocket = "{tmp_path}/x"\ntpm = "{machine.chip.tcti}"\nmode = "development"\n'
    )
    assert main(["identity", "ek", "--config", str(settings), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["keys"][0]["name"].startswith("000b")
    assert not (tmp_path / "s").exists()
    assert main(["identity", "ek", "--config", str(settings)]) == 0
    assert "endorsement key:" in capsys.readouterr().out
