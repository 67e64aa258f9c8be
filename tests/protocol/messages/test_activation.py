"""Messages of an activation: the trust pin."""

import pytest

from protocol.messages.activation import PinError, TrustPin, parse_pin


def test_pins() -> None:
    pin = TrustPin(version=3, sha256="ab" * 32)
    assert parse_pin(str(pin)) == pin
    for text in ("", "1", "1:ab", f"x:{'ab' * 32}", f"1:{'AB' * 32}"):
        with pytest.raises(PinError):
            parse_pin(text)


@pytest.mark.parametrize("version", ["9" * 5000, "\u0663", "-1"])
def test_the_version_of_a_pin_is_a_short_number_in_ascii(version: str) -> None:
    with pytest.raises(PinError):
        parse_pin(f"{version}:{'0' * 64}")
