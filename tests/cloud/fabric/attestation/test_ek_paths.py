"""`cloud.fabric.attestation.ek_paths`: paths through the tenant's and the chip's certificates, within bounds."""

from collections.abc import Sequence
from unittest.mock import patch

import pytest

from cloud.fabric.attestation import ek_paths
from cloud.fabric.attestation.ek_paths import INTERMEDIATES_MAX, SIGNATURES_MAX, NoPath, roots_above
from cloud.fabric.attestation.ek_roots import TrustedRoot
from protocol.maker_certificates import read_certificate, verify_signature
from tests.simulators import forged_evidence as forged
from tests.simulators.forged_evidence import NOW, Authority, maker
from tests.simulators.odd_certificates import multi_valued, renamed

EK = forged.rsa2048("ek").public_key()


def chain(length: int, *, path_length: int | None = None) -> list[Authority]:
    """A root and `length` CAs below it, each below the one before."""
    found = [forged.authority("On-die root", path_length=path_length)]
    for number in range(length):
        found.append(forged.authority(f"On-die {number}", found[-1]))
    return found


def reached(issuer: Authority, root: Authority, stored: Sequence[bytes] = (), sent: Sequence[bytes] = ()) -> int:
    """How many roots are reached from an EK certificate of `issuer`."""
    leaf = read_certificate(maker().certify(EK, issuer=issuer))
    found = 0
    with pytest.raises(NoPath):
        for _ in roots_above(leaf, [TrustedRoot(root.der, tuple(stored))], sent, NOW):
            found += 1
    return found


def test_certificates_of_the_chip_complete_a_path_and_end_none() -> None:
    root, *others = chain(5)
    stored, sent = [others[0].der], [each.der for each in others[1:]]
    assert reached(others[-1], root, stored, sent) == 1
    assert reached(others[-1], root, [], [others[0].der, *sent]) == 1
    assert reached(others[-1], root, stored, sent[1:]) == 0
    assert reached(others[-1], maker().root, [], [root.der, others[0].der, *sent]) == 0


def test_a_certificate_of_the_chip_must_be_a_ca_and_readable() -> None:
    root, ca = chain(1)
    no_ca = forged.authority("No CA", ca, ca=False, may_sign=False)
    assert reached(no_ca, root, [], [ca.der, no_ca.der]) == 0
    assert reached(ca, root, [], [b"", b"\x30\x80", ca.der]) == 1


def test_a_path_has_a_bounded_length_and_few_certificates_are_taken() -> None:
    root, *others = chain(INTERMEDIATES_MAX + 1)
    assert reached(others[-2], root, [each.der for each in others]) == 1
    assert reached(others[-1], root, [each.der for each in others]) == 0
    surplus = [maker(f"Surplus {number}").intermediate.der for number in range(8)]
    assert reached(others[0], root, [], [*surplus, others[0].der]) == 0


def test_path_lengths() -> None:
    for allowed, found in ((0, 0), (1, 0), (2, 1)):
        root, *others = chain(2, path_length=allowed)
        assert reached(others[-1], root, [each.der for each in others]) == found


def test_namesakes_cost_a_bounded_number_of_signatures() -> None:
    root, real = chain(1)
    namesakes = [forged.authority("On-die 0", forged.authority("On-die 0")).der for _ in range(60)]
    with patch.object(ek_paths, "verify_signature", side_effect=verify_signature) as verify:
        assert reached(real, root, namesakes) == 0
    assert verify.call_count == SIGNATURES_MAX


def test_a_circle_of_certificates_ends() -> None:
    one = forged.authority("One")
    two = forged.authority("Two", one)
    back = Authority(forged.authority("One", two).certificate, one.key)
    assert reached(two, maker().root, [], [two.der, back.der]) == 0


def test_an_issuer_is_found_by_its_name_in_any_form() -> None:
    root = renamed(
        maker().root.der,
        maker().root.key,
        issuer=multi_valued("M", "R", ordered=True),
        subject=multi_valued("M", "R", ordered=True),
    )
    leaf = renamed(
        maker().certify(EK, issuer=maker().root), maker().root.key, issuer=multi_valued("m", " R ", ordered=False)
    )
    assert next(roots_above(read_certificate(leaf), [TrustedRoot(root)], (), NOW)).certificate == root


def test_the_reason_names_what_is_wrong() -> None:
    leaf = read_certificate(maker().certify(EK))
    for roots, known, says in (
        ((), False, "not among"),
        ((TrustedRoot(maker().root.der, (maker().intermediate.der,)),), True, "not among"),
        ((TrustedRoot(maker("Other").root.der, (maker().intermediate.der,)),), True, "not among"),
    ):
        with pytest.raises(NoPath, match=says) as missing:
            list(roots_above(leaf, roots, (), NOW))
        assert missing.value.issuer_known is known
