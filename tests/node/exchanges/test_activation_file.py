"""`node.exchanges.activation_file`: a file is read, or refused with its cause and without its secret."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from node.exchanges.activation_file import ActivationFileInvalid, read_activation_file, read_recovery_source
from node.exits import Exit
from protocol.codes import make_recovery_code
from protocol.ids import make_id
from protocol.messages.activation import TrustPin
from tests.simulators.site import CODE, write_activation_file


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"x" * 20_000, b"\xff", b'{"format":1}', None],
)
def test_an_unusable_activation_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "file"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ActivationFileInvalid) as caught:
        read_activation_file(path)
    assert caught.value.exit is Exit.USAGE


def test_a_file_of_another_form(tmp_path: Path) -> None:
    pin = TrustPin(1, "0" * 64)
    forms: list[dict[str, object]] = [{"format": 2}, {"code": CODE[:-1] + "x"}, {"code": "cot_" + CODE[4:]}]
    for number, changes in enumerate(forms):
        with pytest.raises(ActivationFileInvalid) as caught:
            read_activation_file(write_activation_file(tmp_path / str(number), "http://x", pin, **changes))
        assert CODE[4:20] not in caught.value.text
    (tmp_path / "link").symlink_to(tmp_path / "0")
    for path in (tmp_path, tmp_path / "link"):
        with pytest.raises(ActivationFileInvalid):
            read_activation_file(path)


GOOD_PIN = TrustPin(1, "0" * 64)


@pytest.mark.parametrize(
    ("url", "pin", "cause"),
    [
        ("http://[", GOOD_PIN, "the URL has not the form"),
        ("https://cloud.example", GOOD_PIN, "must begin with http://"),
        ("http://h\nINFO forged", GOOD_PIN, "the URL has not the form"),
        ("http://h", TrustPin(-1, "0" * 64), "a trust pin reads"),
        ("http://h", TrustPin(1, "x" * 9000), "a trust pin reads"),
    ],
)
def test_a_refused_activation_file_names_its_cause(tmp_path: Path, url: str, pin: TrustPin, cause: str) -> None:
    with pytest.raises(ActivationFileInvalid, match=cause) as caught:
        read_activation_file(write_activation_file(tmp_path / "f", url, pin))
    assert caught.value.text.isprintable()
    assert CODE not in caught.value.text


ANY_JSON = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=2) | strategies.dictionaries(strategies.text(), inner, max_size=2),
    max_leaves=4,
)
FIELDS = ("format", "repository_url", "pin", "code", "created_at", "other")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=80)
@given(changes=strategies.dictionaries(strategies.sampled_from(FIELDS), ANY_JSON), cut=strategies.integers(0, 400))
def test_any_activation_file_is_read_or_refused(tmp_path: Path, changes: dict[str, object], cut: int) -> None:
    path = write_activation_file(tmp_path / "any.json", "http://x", TrustPin(1, "0" * 64))
    path.write_text(json.dumps(json.loads(path.read_bytes()) | changes)[: cut or None])
    try:
        file, _ = read_activation_file(path)
    except ActivationFileInvalid as error:
        assert error.exit is Exit.USAGE  # noqa: PT017 - the property is about the error
        assert error.text.isprintable()  # noqa: PT017 - as above
        assert CODE not in error.text  # noqa: PT017 - as above
    else:
        assert file.repository_url.startswith("http://")


RECOVERY = make_recovery_code(b"r" * 13)
RECOVERED = make_id("node", 1, bytes(10))


def test_a_recovery_file_names_its_node_and_has_a_recovery_code(tmp_path: Path) -> None:
    path = write_activation_file(tmp_path / "r", "http://x", GOOD_PIN, code=RECOVERY.lower(), node=RECOVERED)
    found = read_recovery_source(path)
    assert (found.node, found.code) == (RECOVERED, RECOVERY)
    with pytest.raises(ActivationFileInvalid, match="recovery file") as caught:
        read_activation_file(path)
    assert "cascadia recover --file" in caught.value.next


def test_an_activation_file_names_the_cloud_of_a_recovery(tmp_path: Path) -> None:
    found = read_recovery_source(write_activation_file(tmp_path / "a", "http://x", GOOD_PIN))
    assert (found.repository_url, found.code) == ("http://x", CODE)


@pytest.mark.parametrize("changes", [{"node": "node_1"}, {"node": RECOVERED}, {"node": RECOVERED, "code": "x"}])
def test_an_unusable_recovery_file(tmp_path: Path, changes: dict[str, object]) -> None:
    with pytest.raises(ActivationFileInvalid) as caught:
        read_recovery_source(write_activation_file(tmp_path / "r", "http://x", GOOD_PIN, **changes))
    assert CODE not in caught.value.text
    with pytest.raises(ActivationFileInvalid):
        read_recovery_source(tmp_path / "missing")
