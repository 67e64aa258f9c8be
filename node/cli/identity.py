"""Command: `cascadia identity ek` shows the endorsement keys of the TPM, their certificates and NV indices.

The command reads the TPM only: no state directory, no agent, no cloud. So it works before an activation, and beside a
running agent, because the resource manager shares the TPM.
"""

from datetime import datetime
from functools import partial
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric import rsa

from node.hwbind import endorsement
from node.hwbind.endorsement import Endorsement, Store
from node.hwbind.errors import TpmError
from node.hwbind.nv import NvContent
from node.hwbind.tpm import Tpm
from protocol.endorsement import DEFAULT_EK_TYPE, TEMPLATES, EkType
from protocol.maker_certificates import (
    CertificateUnreadable,
    MakerCertificate,
    exact_certificate,
    printable,
    read_certificate,
)

NAME_CHARACTERS_MAX = 300
"""Longest name of a certificate that is shown."""


class CertificateShown(msgspec.Struct, frozen=True):
    """A certificate in NV memory: its fields, or the note why it cannot be read. `index` is empty for a CA of the chip."""

    index: str
    subject: str = ""
    issuer: str = ""
    not_before: datetime | None = None
    not_after: datetime | None = None
    note: str = ""


class KeyShown(msgspec.Struct, frozen=True):
    """An EK. `name` is its TPM name in hex. `note` says what is wrong, and what to do; empty if nothing is."""

    ek_type: EkType
    label: str
    name: str
    allow_ek: str
    template: str
    certificate: CertificateShown | None
    note: str = ""


class EkDocument(msgspec.Struct, frozen=True):
    """All that the command shows. `exit_code` is 0, or the code of the fault by which a key is missing."""

    keys: tuple[KeyShown, ...]
    ca_certificates: tuple[CertificateShown, ...]
    other_indices: tuple[CertificateShown, ...]
    exit_code: int


async def survey(tpm: Tpm) -> EkDocument:
    """Read the EKs and the NV memory. A key that the TPM does not make has a note. Raises TpmError without any TPM."""
    store = await tpm.run(endorsement.read_store)
    keys: list[KeyShown] = []
    exit_code = 0
    for ek_type, template in TEMPLATES.items():
        if ek_type != DEFAULT_EK_TYPE and template.certificate_index not in store.contents:
            continue
        try:
            found = await tpm.run(partial(endorsement.read_endorsement, ek_type=ek_type, store=store))
            keys.append(_key(ek_type, found, store))
        except TpmError as error:
            keys.append(_key(ek_type, None, store, f"{error}. {error.advice}"))
            exit_code = exit_code or error.exit_code
    known = {
        index
        for each in TEMPLATES.values()
        for index in (each.certificate_index, each.nonce_index, each.template_index)
    }
    others = tuple(_certificate(each) for index, each in store.contents.items() if index not in known)
    chain = tuple(_certificate(NvContent(0, raw)) for raw in store.intermediates)
    return EkDocument(tuple(keys), chain, others, exit_code)


def human_keys(document: dict[str, Any]) -> str:
    """The document as text: a paragraph for each key, then the other certificates."""
    paragraphs = []
    for key in document["keys"]:
        rows = [("endorsement key", f"{key['label']} ({key['ek_type']})"), ("name", key["name"])]
        rows += [("allow by name", key["allow_ek"]), ("template", key["template"])]
        rows += _rows("certificate", key["certificate"], "none in NV memory")
        paragraphs.append([*rows, ("note", key["note"])])
    paragraphs += [_rows("chip's CA", each, "") for each in document["ca_certificates"]]
    paragraphs += [_rows("other index", each, "") for each in document["other_indices"]]
    return "\n\n".join(
        "\n".join(f"{name + ':':<18}{value}" for name, value in rows if value != "") for rows in paragraphs
    )


def _rows(title: str, certificate: dict[str, Any] | None, missing: str) -> list[tuple[str, str]]:
    if certificate is None:
        return [(title, missing)]
    at = f"NV index {certificate['index']}" if certificate["index"] else "in NV memory"
    rows = [(title, at), ("subject", certificate["subject"]), ("issuer", certificate["issuer"])]
    if certificate["not_before"]:
        rows.append(("valid", f"{certificate['not_before']} to {certificate['not_after']}"))
    return [*rows, ("problem", certificate["note"])]


def _key(ek_type: EkType, found: Endorsement | None, store: Store, note: str = "") -> KeyShown:
    template = TEMPLATES[ek_type]
    name = found.name.hex() if found is not None else ""
    stored = store.contents.get(template.certificate_index)
    certificate = _certificate(stored) if stored is not None else None
    if found is not None and not note and _mismatched(found):
        note = (
            "The certificate is for another key than the one that the TPM makes from this template. A reset of the TPM's "
            "firmware can cause that. The operator can allow the key by its name."
        )
    allowed = f"cascade hardware allow-ek TENANT {name}" if name and ek_type == DEFAULT_EK_TYPE else ""
    return KeyShown(
        ek_type, template.label, name, allowed, found.template if found is not None else "", certificate, note
    )


def _mismatched(found: Endorsement) -> bool:
    """Whether the certificate can be read and is for another key."""
    if found.certificate is None:
        return False
    try:
        key = read_certificate(found.certificate).key
    except CertificateUnreadable:
        return False
    if isinstance(key, rsa.RSAPublicKey):
        values: tuple[int, ...] = (key.public_numbers().n,)
    else:
        values = (key.public_numbers().x, key.public_numbers().y)
    try:
        return TEMPLATES[found.ek_type].public(*values)[-64:] != found.public[-64:]
    except (OverflowError, ValueError):
        return True


def _certificate(stored: NvContent) -> CertificateShown:
    index = f"{stored.index:#010x}" if stored.index else ""
    if stored.content is None:
        return CertificateShown(index, note=stored.note)
    if not stored.content.strip(b"\0\xff"):
        return CertificateShown(index, note="the index has no content, only padding")
    try:
        found: MakerCertificate = read_certificate(exact_certificate(stored.content))
    except CertificateUnreadable as error:
        return CertificateShown(index, note=f"it is no certificate that can be read: {error}")
    subject, issuer = (
        printable(each)[:NAME_CHARACTERS_MAX] or "(empty)" for each in (found.subject_text, found.issuer_text)
    )
    return CertificateShown(index, subject, issuer, found.begins, found.ends)
