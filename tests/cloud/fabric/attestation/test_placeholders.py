"""`cloud.fabric.attestation.placeholders`: a value that many machines share identifies none."""

from cloud.fabric.attestation.placeholders import placeholders, without_placeholders
from protocol.hardware import component_hmac

SALT, OTHER = b"s" * 32, b"t" * 32


def test_known_placeholders_of_the_tenant_are_taken_out_under_any_number() -> None:
    serial = component_hmac(SALT, "board_serial", "7QX1F53.CNWS2003AB00D7")
    worthless = component_hmac(SALT, "board_serial", "Default string")
    sent = {
        "board_serial": serial,
        "board_serial/2": worthless,
        "chassis_serial": component_hmac(SALT, "chassis_serial", "7QX1F53"),
    }
    assert without_placeholders(sent, SALT) == {name: sent[name] for name in ("board_serial", "chassis_serial")}
    assert without_placeholders({"board_serial": worthless}, OTHER) == {"board_serial": worthless}
    assert placeholders(SALT) is placeholders(SALT), "they are computed once for a tenant"
