"""Settings: which source overrides which, which values are refused, and that a refusal names the setting.

Property tests give every source any content: the result is a usable Config or a ConfigError.
"""

import json
import os
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies

from node.config import (
    BOUNDS,
    BUILT_IN,
    CONFIG_BYTES_MAX,
    CONFIG_FILE,
    CREDENTIALS,
    DROP_INS_MAX,
    PATH_BYTES_MAX,
    SOCKET_PATH_BYTES_MAX,
    Config,
    ConfigError,
    allowed,
    load_config,
    load_settings,
    parse_file,
)
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
    with pytest.raises(ConfigError, match=r"c\.toml, line 1: there is no setting `setle_seconds`; .* `settle_seconds`"):
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


COMMENT = strategies.characters(exclude_characters="\n", exclude_categories=["Cs"])
COMMENTS = strategies.lists(
    strategies.just("") | strategies.text(COMMENT, max_size=6).map(lambda text: f"#{text}")
).map("\n".join)


@given(text=COMMENTS)
def test_a_file_of_comments_is_read_as_the_parser_reads_it(text: str) -> None:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        with pytest.raises(ConfigError):
            parse_file(text.encode(), Path("any.toml"))
    else:
        assert parsed == {}
        assert parse_file(text.encode(), Path("any.toml")) == {}


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


def test_a_credential_of_systemd_overrides_the_file_and_no_other_source(tmp_path: Path) -> None:
    environment = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert load_config({}, environment) == Config()
    (tmp_path / "tpm-owner-auth").touch()
    file = write(tmp_path / "c.toml", 'tpm_owner_auth = "/of-root"\ntpm_endorsement_auth = "/other"')
    found = load_settings({"config": file}, environment)
    assert found.config == Config(tpm_owner_auth=tmp_path / "tpm-owner-auth", tpm_endorsement_auth=Path("/other"))
    assert found.sources["tpm_owner_auth"] == "credential tpm-owner-auth"
    assert load_config({}, environment | {"CASCADIA_TPM_OWNER_AUTH": "/e"}).tpm_owner_auth == Path("/e")


def test_the_identity_is_that_of_a_tpm_unless_said_otherwise(tmp_path: Path) -> None:
    assert Config().identity == "tpm"
    assert load_config({"config": write(tmp_path / "c.toml", 'identity = "software"')}, {}).identity == "software"


@pytest.fixture
def default(tmp_path: Path) -> Path:
    """The default settings file of a machine, with drop-ins."""
    (tmp_path / "conf.d").mkdir()
    write(tmp_path / "cascadia.toml", 'settle_seconds = 5\nheartbeat_seconds = 60\ntpm = "file"\n')
    write(tmp_path / "conf.d" / "10-site.toml", "\nheartbeat_seconds = 70\nsettle_seconds = 6")
    write(tmp_path / "conf.d" / "20-lab.toml", "heartbeat_seconds = 80")
    write(tmp_path / "conf.d" / "README", "no settings")
    write(tmp_path / "conf.d" / "30-old.toml.dpkg-old", "heartbeat_seconds = 1")
    write(tmp_path / "conf.d" / ".99-editor.toml", "heartbeat_seconds = 1")
    return tmp_path / "cascadia.toml"


def test_drop_ins_override_the_default_file_in_the_order_of_their_names(default: Path) -> None:
    found = load_settings({"tpm": "option"}, {"CASCADIA_SOCKET": "/s"}, default=default)
    assert found.config == Config(heartbeat_seconds=80, settle_seconds=6, tpm="option", socket=Path("/s"))
    drop_ins = default.parent / "conf.d"
    assert found.sources == {
        **dict.fromkeys(NAMES, BUILT_IN),
        "heartbeat_seconds": f"{drop_ins}/20-lab.toml, line 1",
        "settle_seconds": f"{drop_ins}/10-site.toml, line 3",
        "tpm": "--tpm",
        "socket": "CASCADIA_SOCKET",
    }


def test_a_named_file_has_no_drop_ins(default: Path) -> None:
    assert load_settings({"config": str(default)}, {}, default=default).config.heartbeat_seconds == 60


def test_drop_ins_need_no_default_file(default: Path) -> None:
    default.unlink()
    assert load_settings({}, {}, default=default).config == Config(heartbeat_seconds=80, settle_seconds=6)


@pytest.mark.parametrize(
    ("text", "line", "rest"),
    [
        ("\n\nsokcet = 1", 3, "there is no setting `sokcet`; the nearest name is `socket`"),
        ("# mode\nmode = 'test'", 2, """Invalid enum value 'test'; allowed is "production" or "development\""""),
        ('\n "settle_seconds"\t= 0', 2, "0 is out of bounds; allowed is a whole number between 1 and 120"),
        (
            "tpm = 'a'\n'heartbeat_seconds' = 'soon'",
            2,
            "Expected `int`, got `str`; allowed is a whole number between 2 and 3600",
        ),
        ("state_dir = 1", 1, "a path is a text in quotes; allowed is a path in quotes"),
        ("\n[agent]\nmode = 1", 2, "there is no setting `agent`"),
        ("\n\n[[agent]]", 3, "there is no setting `agent`"),
        ("agent.mode = 1", 1, "there is no setting `agent`"),
    ],
)
def test_a_refusal_names_file_line_setting_and_what_is_allowed(default: Path, text: str, line: int, rest: str) -> None:
    path = default.parent / "conf.d" / "20-lab.toml"
    write(path, text)
    with pytest.raises(ConfigError) as caught:
        load_settings({}, {}, default=default)
    assert f"{path}, line {line}: {rest}" in caught.value.text
    assert (caught.value.exit, "cascadia config check" in caught.value.next) == (Exit.USAGE, True)


@pytest.mark.parametrize(
    ("data", "line"), [(b"\nmode = ", "line 2"), (b"a = 1\na = 2", "line 2"), (b"\n\n\xff", "line 3")]
)
def test_a_fault_of_the_text_names_its_line(default: Path, data: bytes, line: str) -> None:
    write(default, data)
    with pytest.raises(ConfigError, match=rf"cascadia\.toml.*{line}"):
        load_settings({}, {}, default=default)


def test_a_name_in_another_spelling_is_refused_without_a_line(default: Path) -> None:
    write(default, '"settle\\u005fseconds" = 0')
    with pytest.raises(ConfigError, match=r"`settle_seconds` in .*cascadia\.toml: 0 is out of bounds"):
        load_settings({}, {}, default=default)


def test_drop_ins_are_bounded(default: Path) -> None:
    for number in range(DROP_INS_MAX):
        write(default.parent / "conf.d" / f"{number}.toml", "")
    with pytest.raises(ConfigError, match=rf"conf\.d: it has more than {DROP_INS_MAX} files"):
        load_settings({}, {}, default=default)


def test_a_drop_in_that_is_too_large_or_no_file_is_refused(default: Path) -> None:
    large = default.parent / "conf.d" / "90.toml"
    write(large, "#" * (CONFIG_BYTES_MAX + 1))
    with pytest.raises(ConfigError, match=r"90\.toml: it is larger than"):
        load_settings({}, {}, default=default)
    large.unlink()
    large.mkdir()
    with pytest.raises(ConfigError, match=r"90\.toml is not a regular file"):
        load_settings({}, {}, default=default)
    large.rmdir()
    (default.parent / "conf.d").rename(default.parent / "aside")
    write(default.parent / "conf.d", "")
    with pytest.raises(ConfigError, match=r"conf\.d: Not a directory"):
        load_settings({}, {}, default=default)


def test_settings_of_root_are_left_out_for_others_who_only_ask(default: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def refusing(path: Path, flags: int) -> int:
        if str(path).startswith(str(default.parent)):
            raise PermissionError(13, "Permission denied")
        return real(path, flags)

    monkeypatch.setattr(os, "open", refusing)
    assert load_settings({}, {}, default=default, others=True).config == Config()
    for options in ({}, {"config": str(default)}):
        with pytest.raises(ConfigError, match="Permission denied") as caught:
            load_settings(options, {}, default=default, others=bool(options))
        assert caught.value.next == "Run the command as root."


PACKAGED = Path(__file__).parents[2] / "packaging" / "cascadia" / "cascadia.toml"


def test_the_packaged_file_sets_nothing_and_shows_each_setting_with_its_built_in_value() -> None:
    text = PACKAGED.read_text()
    assert parse_file(text.encode(), PACKAGED) == {}
    shown = "\n".join(line.removeprefix("#") for line in text.splitlines() if re.match(r"#[a-z_]+ =", line))
    values = parse_file(shown.encode(), PACKAGED)
    assert set(values) == set(NAMES)
    assert {name: value for name, value in values.items() if name not in CREDENTIALS} == {
        name: getattr(Config(), name) for name in NAMES if name not in CREDENTIALS
    }


def test_the_packaged_file_shows_what_is_allowed() -> None:
    comments = dict(re.findall(r"((?:# .*\n)+)#([a-z_]+) =", PACKAGED.read_text()))
    above = {name: comment.replace("\n# ", " ") for comment, name in comments.items()}
    for name, (least, largest) in BOUNDS.items():
        assert f"{least} to {largest}" in above[name]
    for name in ("mode", "identity"):
        assert allowed(name) in above[name]
    assert f"at most {SOCKET_PATH_BYTES_MAX} bytes" in above["socket"]
    assert f"at most {PATH_BYTES_MAX} bytes" in above["state_dir"]
