"""Settings: which source overrides which, which values are refused, and that a refusal names the setting."""

from pathlib import Path

import pytest

from node.config import CONFIG_FILE, Config, ConfigError, load_config
from node.exits import Exit


def write(path: Path, text: str | bytes) -> str:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)


def test_later_sources_win(tmp_path: Path) -> None:
    file = write(
        tmp_path / "c.toml", 'heartbeat_seconds = 60\ntpm = "file"\nstate_dir = "/file"\nsocket = "/file.sock"'
    )
    environment = {"CASCADIA_TPM": "environment", "CASCADIA_STATE_DIR": "/environment"}
    config = load_config({"config": file, "state_dir": Path("/option"), "tpm": None}, environment)
    assert config == Config(
        state_dir=Path("/option"), socket=Path("/file.sock"), tpm="environment", heartbeat_seconds=60
    )


def test_the_environment_names_the_file(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", 'mode = "development"')
    assert load_config({}, {"CASCADIA_CONFIG": file}).mode == "development"


def test_without_any_source_the_values_are_those_of_production() -> None:
    assert not CONFIG_FILE.exists()
    config = load_config({}, {"CASCADIA_TPM": ""})
    assert config == Config()
    assert (config.mode, config.tpm) == ("production", "device:/dev/tpmrm0")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("heartbeat_second = 60", "heartbeat_second"),
        ("heartbeat_seconds = 1", "between 2 and 3600"),
        ("heartbeat_seconds = 3601", "between 2 and 3600"),
        ("settle_seconds = 0", "between 1 and 120"),
        ("settle_seconds = 121", "between 1 and 120"),
        ('heartbeat_seconds = "60"', "heartbeat_seconds"),
        ("heartbeat_seconds = true", "heartbeat_seconds"),
        ('mode = "test"', "mode"),
        ("[agent]\nx = 1", "agent"),
        ("mode = ", "c.toml"),
        (b"\xff = 1", "c.toml"),
    ],
)
def test_unusable_settings_are_refused(tmp_path: Path, text: str | bytes, named: str) -> None:
    file = write(tmp_path / "c.toml", text)
    with pytest.raises(ConfigError, match=named) as caught:
        load_config({"config": file}, {})
    assert caught.value.exit is Exit.USAGE


def test_a_named_file_must_be_there_and_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config({"config": str(tmp_path / "missing.toml")}, {})
    with pytest.raises(ConfigError, match="cannot read the settings"):
        load_config({"config": str(tmp_path)}, {})


@pytest.mark.parametrize("text", ["soon", "1.5", "-1", "1"])
def test_numbers_of_the_environment_keep_the_bounds(text: str) -> None:
    with pytest.raises(ConfigError, match=r"(?i)heartbeat_seconds"):
        load_config({}, {"CASCADIA_HEARTBEAT_SECONDS": text})
