"""Settings: which source overrides which, which values are refused, and that a refusal names the setting.

Property tests give every source any content: the result is a usable Config or a ConfigError.
"""

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from node.config import CONFIG_BYTES_MAX, CONFIG_FILE, SOCKET_PATH_BYTES_MAX, Config, ConfigError, load_config
from node.exits import Exit

NAMES = Config.__struct_fields__
ANY_TEXT = strategies.text(strategies.characters(), max_size=40)
"""Surrogates are included: Python reads bytes that are not UTF-8 as surrogates."""


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
        ("state_dir = 1", "`state_dir` in .*a path is a text"),
        ('state_dir = ""', "`state_dir` in .*empty"),
        ('socket = ["/x"]', "`socket` in .*a path is a text"),
        ('state_dir = "/a\\u0000b"', "`state_dir` in .*NUL"),
        (f'state_dir = "/{"x" * 256}"', "`state_dir` in .*255 bytes"),
        (f'state_dir = "{"/x" * 2048}"', "`state_dir` in .*4095 bytes"),
        (f'socket = "/{"x/" * 51}ab"', "`socket` in .*103 bytes"),
        ('tpm = ""', "`tpm` in .*empty"),
        ('tpm = "a\\nb"', "`tpm` in .*printable"),
        ("tpm = 1", "`tpm` in"),
        ("heartbeat_seconds = " + "9" * 5000, "c.toml"),
        ("heartbeat_seconds = 1979-05-27", "`heartbeat_seconds` in"),
        ("x = " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("# " + "x" * CONFIG_BYTES_MAX, "larger than"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_unusable_settings_are_refused(tmp_path: Path, text: str | bytes, named: str) -> None:
    file = write(tmp_path / "c.toml", text)
    with pytest.raises(ConfigError, match=named) as caught:
        load_config({"config": file}, {})
    assert caught.value.exit is Exit.USAGE


def test_a_named_file_must_be_there_and_be_a_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not exist"):
        load_config({"config": str(tmp_path / "missing.toml")}, {})
    os.mkfifo(tmp_path / "fifo")
    for odd in (tmp_path, tmp_path / "fifo", Path("/dev/zero"), Path("/dev/null")):
        with pytest.raises(ConfigError, match="is not a regular file"):
            load_config({"config": str(odd)}, {})
    for name in ("x\0y", "/" + "x" * 300, "\ud800"):
        with pytest.raises(ConfigError, match="cannot read the settings"):
            load_config({}, {"CASCADIA_CONFIG": name})


def test_a_longest_socket_path_and_bytes_that_are_no_text_are_used(tmp_path: Path) -> None:
    longest = "/" + "x" * (SOCKET_PATH_BYTES_MAX - 1)
    assert load_config({}, {"CASCADIA_SOCKET": longest}).socket == Path(longest)
    latin = os.fsdecode(b"/caf\xe9")
    assert os.fsencode(load_config({"state_dir": latin}, {}).state_dir) == b"/caf\xe9"


def test_an_unknown_variable_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match="`CASCADIA_SOKET`; the nearest name is `CASCADIA_SOCKET`") as caught:
        load_config({}, {"CASCADIA_SOKET": "/x", "CASCADE_SOKET": "", "PATH": "/bin"})
    assert caught.value.exit is Exit.USAGE
    with pytest.raises(ConfigError, match=r"`CASCADIA_QQQQQQQQ`\Z"):
        load_config({}, {"CASCADIA_QQQQQQQQ": ""})


def test_an_unknown_key_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    file = write(tmp_path / "c.toml", "setle_seconds = 5")
    with pytest.raises(ConfigError, match=r"c\.toml: there is no setting `setle_seconds`; .* `settle_seconds`"):
        load_config({"config": file}, {})


@pytest.mark.parametrize("option", ["config", "state_dir", "socket", "tpm"])
def test_an_empty_option_is_refused(option: str) -> None:
    with pytest.raises(ConfigError, match=f"--{option.replace('_', '-')}.*empty"):
        load_config({option: ""}, {})


def usable(config: Config) -> bool:
    """Whether the settings are of the declared types, and their paths are paths of the system."""
    paths = (config.state_dir, config.socket)
    return all(b"\0" not in os.fsencode(path) for path in paths) and config.tpm.isprintable()


JSON_VALUES = strategies.recursive(
    strategies.none() | strategies.booleans() | strategies.integers() | strategies.floats() | strategies.text(),
    lambda inner: strategies.lists(inner, max_size=3) | strategies.dictionaries(strategies.text(), inner, max_size=3),
    max_leaves=5,
)
LINES = strategies.builds(
    lambda name, value: f"{name} = {json.dumps(value)}", strategies.sampled_from([*NAMES, "other"]), JSON_VALUES
).map(str.encode)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=40)
@given(data=strategies.binary(max_size=60) | strategies.lists(LINES | strategies.binary(max_size=9)).map(b"\n".join))
def test_any_file_is_settings_or_a_refusal(tmp_path: Path, data: bytes) -> None:
    file = write(tmp_path / "any.toml", data)
    try:
        assert usable(load_config({"config": file}, {}))
    except ConfigError as error:
        assert error.text.isprintable()  # noqa: PT017 - the property is about the text


VARIABLES = strategies.sampled_from([*(f"CASCADIA_{name.upper()}" for name in NAMES), "CASCADIA_CONFIG"])


@settings(max_examples=40)
@given(environment=strategies.dictionaries(VARIABLES | ANY_TEXT, ANY_TEXT, max_size=4))
def test_any_environment_is_settings_or_a_refusal(environment: dict[str, str]) -> None:
    try:
        assert usable(load_config({}, environment))
    except ConfigError as error:
        assert error.text.isprintable()  # noqa: PT017 - the property is about the text


@pytest.mark.parametrize("text", ["soon", "1.5", "-1", "1", "1_0", " 60", "٦٠", "9" * 5000])
def test_numbers_of_the_environment_keep_the_bounds(text: str) -> None:
    with pytest.raises(ConfigError, match=r"(?i)heartbeat_seconds"):
        load_config({}, {"CASCADIA_HEARTBEAT_SECONDS": text})


def test_a_credential_of_systemd_is_the_default_of_its_setting(tmp_path: Path) -> None:
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load_config({}, environment) == Config()
    (tmp_path / "tpm-owner-auth").touch()
    assert load_config({}, environment) == Config(tpm_owner_auth=tmp_path / "tpm-owner-auth")
    file = write(tmp_path / "c.toml", 'tpm_owner_auth = "/named"\ntpm_endorsement_auth = "/other"')
    named = load_config({"config": file}, environment)
    assert named == Config(tpm_owner_auth=Path("/named"), tpm_endorsement_auth=Path("/other"))


def test_the_identity_is_that_of_a_tpm_unless_said_otherwise(tmp_path: Path) -> None:
    assert Config().identity == "tpm"
    assert load_config({"config": write(tmp_path / "c.toml", 'identity = "software"')}, {}).identity == "software"
