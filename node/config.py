"""Values: the settings of the agent. A command-line option overrides the environment (`CASCADIA_*`), which overrides
the files, which override the built-in value. The files are `cascadia.toml` and, in the order of their names, the
drop-ins `conf.d/*.toml` beside it. A file that is named on the command line or in the environment has no drop-ins.

An unknown key in the file is refused, and so is an unknown variable `CASCADIA_*`, because a mistyped name would leave
the default in force without a message. An empty variable counts as not set. Every other empty value is refused.

A TPM connection other than the kernel's resource manager needs `mode = "development"`
(`node.hwbind.tpm.check_tcti`). `cascadia status` shows development mode. Every session proof repeats it
(`protocol.messages.sessions.ProofClaims`), and `cascade node list` and `cascade node show` show it to operators.
"""

import os
import re
import stat
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import msgspec

from node.errors import NodeError
from node.exits import Exit

AGENT_VERSION = "0.1.0"
BUILT_AT = datetime(2026, 11, 30, tzinfo=UTC)
"""A time shortly before the build of this version. No machine that runs this version is earlier. `tools.changelog
collect` writes the day before the release here."""
CONFIG_FILE = Path("/etc/cascadia/cascadia.toml")
DROP_INS = "conf.d"
"""The directory of the drop-ins, beside the default settings file."""
DROP_INS_MAX = 64
CONFIG_BYTES_MAX = 64 * 1024
"""A file with every setting and its comments has 3 kB."""
ENVIRONMENT_PREFIX = "CASCADIA_"

HEARTBEAT_SECONDS_MIN = 2
HEARTBEAT_SECONDS_MAX = 3600
BOUNDS = {"heartbeat_seconds": (HEARTBEAT_SECONDS_MIN, HEARTBEAT_SECONDS_MAX), "settle_seconds": (1, 120)}
"""The least and the largest value of each number."""
CREDENTIALS = ("tpm_owner_auth", "tpm_endorsement_auth")
"""Settings that name a file with a secret. The secret itself is no setting."""
PATH_BYTES_MAX = 4095
"""PATH_MAX of Linux without its final NUL."""
NAME_BYTES_MAX = 255
"""NAME_MAX of Linux: one component of a path."""
SOCKET_PATH_BYTES_MAX = 103
"""A unix socket's address has 107 bytes (unix(7)). The socket is made under its name with `.new` added, and renamed."""


class ConfigError(NodeError):
    """The settings cannot be used. The text names the file, the variable or the key, and the fault."""

    exit = Exit.USAGE
    code = "config_invalid"
    next = "Correct it. `cascadia config check` shows the settings and where each of them is from."


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings by the names that the file uses.

    Attributes:
        state_dir: the state directory.
        socket: the path of the agent's unix socket.
        tpm: the TPM connection (`node.hwbind.tpm`).
        identity: `tpm` activates with the TPM; `software` activates without one, with a key in a file. The setting counts
            at an activation only. The cloud decides whether it admits a machine without a TPM.
        tpm_owner_auth: the file that has the password of the TPM's owner hierarchy; None if there is no password.
        tpm_endorsement_auth: the file that has the password of the endorsement hierarchy.
        mode: production allows the kernel's resource manager only; development allows any TPM connection.
        heartbeat_seconds: length of a heartbeat slot, 2 to 3600. The agent asks the cloud once in each slot
            (`node.exchanges.schedule`).
        settle_seconds: how long a start waits for the cloud, 1 to 120. After that the stored evidence decides.
    """

    state_dir: Path = Path("/var/lib/cascadia")
    socket: Path = Path("/run/cascadia/cascadia.sock")
    tpm: str = "device:/dev/tpmrm0"
    mode: Literal["production", "development"] = "production"
    heartbeat_seconds: int = 600
    settle_seconds: int = 20
    tpm_owner_auth: Path | None = None
    tpm_endorsement_auth: Path | None = None
    identity: Literal["tpm", "software"] = "tpm"

    def __post_init__(self) -> None:
        for name, (least, largest) in BOUNDS.items():
            if not least <= getattr(self, name) <= largest:
                raise ValueError(f"{getattr(self, name)} is out of bounds")


class Settings(msgspec.Struct, frozen=True):
    """The settings in force. `sources`: name of a setting -> where its value is from."""

    config: Config
    sources: dict[str, str]


_KINDS = get_type_hints(Config)
"""Setting -> its type."""
BUILT_IN = "built-in value"


def allowed(name: str) -> str:
    """What a setting may be, for the text of an error."""
    kind = _KINDS[name]
    if kind is int:
        return "a whole number between {} and {}".format(*BOUNDS[name])
    if kind in (Path, Path | None):
        return "a path in quotes"
    return " or ".join(f'"{value}"' for value in get_args(kind)) or "a text in quotes, of printable ASCII characters"


def _read_file(path: Path, required: bool, *, others: bool = False) -> bytes:
    """The bytes of a settings file. A missing file that is not required is empty. Raises ConfigError.

    With `others` a file that this user may not read is empty too.
    """
    try:
        # Without O_NONBLOCK the open of a FIFO would wait for a writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise ConfigError(f"cannot read the settings: {path} is not a regular file")
            with os.fdopen(descriptor, "rb", closefd=False) as file:
                data = file.read(CONFIG_BYTES_MAX + 1)
        finally:
            os.close(descriptor)
    except FileNotFoundError:
        if required:
            raise ConfigError(f"cannot read the settings: {path} does not exist") from None
        return b""
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if others and isinstance(error, PermissionError):
            return b""
        raise _unreadable(path, error) from error
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(f"cannot read the settings in {path}: it is larger than {CONFIG_BYTES_MAX} bytes")
    return data


def _unreadable(path: Path, error: OSError | ValueError) -> ConfigError:
    step = "Run the command as root." if isinstance(error, PermissionError) else "Check the file and its directory."
    return ConfigError(f"cannot read the settings in {path}: {getattr(error, 'strerror', error)}", next_step=step)


def parse_file(data: bytes, path: Path) -> dict[str, Any]:
    """The checked settings in the bytes of a settings file. `path` is for the text of an error. Raises ConfigError."""
    return {name: value for name, (value, _) in _parsed(data, path).items()}


def _parsed(data: bytes, path: Path) -> dict[str, tuple[Any, str]]:
    """Setting -> its checked value, and its place. Raises ConfigError."""
    text = ""
    try:
        text = data.decode()
        table = {} if _has_only_comments(text) else _table(text)
    except RecursionError as error:
        raise ConfigError(f"cannot read the settings in {path}: its values are nested too deeply") from error
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"cannot read the settings in {path}, line {line}: it is not UTF-8 text") from error
    except ValueError as error:  # TOMLDecodeError, which names the line
        end = f"at end of document, line {len(text.splitlines())}"
        fault = str(error).replace("at end of document", end)
        raise ConfigError(f"cannot read the settings in {path}: {fault}") from error
    places = {name: f"{path}{_line(text, name)}" for name in table}
    for name in table:
        _refuse_unknown([name], _KINDS, f"the settings in {places[name]}: there is no setting")
    return {
        name: (_converted(name, value, f"`{name}` in {places[name]}"), places[name]) for name, value in table.items()
    }


def _has_only_comments(text: str) -> bool:
    """Whether a TOML text sets nothing, like the file of the package. False where only the parser can tell."""
    return all(not line or (line[0] == "#" and line.isprintable()) for line in text.split("\n"))


def _table(text: str) -> dict[str, Any]:
    import tomllib  # a hundredth of a start, which a file of comments saves

    return tomllib.loads(text)


def _line(text: str, name: str) -> str:
    """The line of a key or table of the top level, as ", line N". Empty if the name is written in another way.

    The file is TOML, so the name is there once, unless a text of several lines has it.
    """
    key = re.escape(name)
    found = re.search(rf"""^[ \t]*\[*[ \t]*(?:{key}|"{key}"|'{key}')[ \t]*[=.\]]""", text, re.MULTILINE)
    return "" if found is None else f", line {text.count(chr(10), 0, found.start()) + 1}"


def _files(named: str | None, default: Path, *, others: bool) -> dict[str, tuple[Any, str]]:
    """Setting -> value and place, of the settings file and the drop-ins. Raises ConfigError."""
    if named:
        return _parsed(_read_file(Path(named), required=True), Path(named))
    values = _parsed(_read_file(default, required=False, others=others), default)
    for path in _drop_ins(default.parent / DROP_INS, others=others):
        values |= _parsed(_read_file(path, required=False, others=others), path)
    return values


def _drop_ins(directory: Path, *, others: bool) -> list[Path]:
    """The drop-ins in the order of their names. Raises ConfigError."""
    try:
        names = sorted(path.name for path in directory.iterdir())
    except FileNotFoundError:
        return []
    except OSError as error:
        if others and isinstance(error, PermissionError):
            return []
        raise _unreadable(directory, error) from error
    names = [name for name in names if name.endswith(".toml") and not name.startswith(".")]
    if len(names) > DROP_INS_MAX:
        raise ConfigError(f"cannot read the settings in {directory}: it has more than {DROP_INS_MAX} files `*.toml`")
    return [directory / name for name in names]


def _refuse_unknown(names: Iterable[str], known: Iterable[str], text: str) -> None:
    """Raise ConfigError for the first name that is not known, with the known name that is nearest."""
    known = tuple(known)
    for name in names:
        if name not in known:
            import difflib

            near = difflib.get_close_matches(name[:100], known, n=1, cutoff=0.8)
            meant = f"; the nearest name is `{near[0]}`" if near else ""
            raise ConfigError(f"cannot use {text} `{name}`{meant}")


def _converted(name: str, value: Any, source: str) -> Any:
    """The value of one setting in its type. `source` names the place of the value. Raises ConfigError."""
    kind = _KINDS[name]
    try:
        if kind in (Path, Path | None):
            return _path(name, value)
        checked = msgspec.convert(value, kind)
        if isinstance(checked, str):
            _check_text(checked)
        # The bounds of numbers are those of the structure itself.
        Config(**{name: checked})
    except ValueError as error:  # msgspec.ValidationError as well
        raise ConfigError(f"cannot use {source}: {error}; allowed is {allowed(name)}") from error
    return checked


def _check_text(text: str) -> None:
    if not text:
        raise ValueError("it is empty")
    if len(text) > PATH_BYTES_MAX or not (text.isascii() and text.isprintable()):
        raise ValueError(f"it has other than printable ASCII characters, or more than {PATH_BYTES_MAX}")


def _path(name: str, value: Any) -> Path:
    """A path that the system can use. It may have bytes that are not UTF-8. Raises ValueError."""
    if not isinstance(value, str | Path):
        raise ValueError("a path is a text in quotes")
    text = str(value)
    if not text:
        raise ValueError("it is empty")
    try:
        encoded = os.fsencode(text)
    except UnicodeEncodeError as error:
        raise ValueError("it has characters that no file name has") from error
    bytes_max = SOCKET_PATH_BYTES_MAX if name == "socket" else PATH_BYTES_MAX
    if b"\0" in encoded:
        raise ValueError("it has a NUL character")
    if len(encoded) > bytes_max:
        raise ValueError(f"it is longer than {bytes_max} bytes")
    if any(len(part) > NAME_BYTES_MAX for part in encoded.split(b"/")):
        raise ValueError(f"one of its names is longer than {NAME_BYTES_MAX} bytes")
    return Path(text)


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    known = {ENVIRONMENT_PREFIX + name.upper(): name for name in _KINDS}
    given = [variable for variable in environment if variable.startswith(ENVIRONMENT_PREFIX)]
    _refuse_unknown(given, (*known, ENVIRONMENT_PREFIX + "CONFIG"), "the environment: there is no variable")
    values: dict[str, Any] = {}
    for variable, name in known.items():
        text = environment.get(variable)
        if text:
            values[name] = _converted(name, _number(text, variable) if _KINDS[name] is int else text, variable)
    return values


def _number(text: str, variable: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise ConfigError(f"cannot use {variable}: it is not a whole number of at most nine digits")
    return int(text)


def _credentials(environment: Mapping[str, str]) -> dict[str, Path]:
    """The settings whose files systemd has provided (`LoadCredential=tpm-owner-auth:FILE`, systemd.exec(5))."""
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return {}
    provided = {name: Path(directory) / name.replace("_", "-") for name in CREDENTIALS}
    return {name: path for name, path in provided.items() if os.path.lexists(path)}


def load_config(options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Config:
    """The settings in force. Arguments and errors are those of `load_settings`."""
    return load_settings(options, environment).config


def load_settings(
    options: Mapping[str, Any],
    environment: Mapping[str, str] | None = None,
    *,
    default: Path = CONFIG_FILE,
    others: bool = False,
) -> Settings:
    """The settings in force, with their sources.

    Args:
        options: values of the command line by setting; None means "not given". `config` names the settings file.
        environment: the environment's variables; by default those of the process.
        default: the settings file that counts if no other file is named. It may be missing. It has drop-ins.
        others: without an error, leave out the default file and its drop-ins if this user may not read them.

    A credential that systemd provides overrides the files: root's commands read the file that a setting names, and the
    agent's user may not. A settings file that is named must exist. Raises ConfigError.
    """
    environment = os.environ if environment is None else environment
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("config") == "":
        raise ConfigError("cannot use --config: it is empty")
    # The environment is checked first, so that a mistyped variable is reported before a missing file.
    variables = _from_environment(environment)
    named = given.get("config") or environment.get(ENVIRONMENT_PREFIX + "CONFIG")
    found = _files(named, default, others=others)
    found |= {name: (value, f"credential {value.name}") for name, value in _credentials(environment).items()}
    found |= {name: (value, ENVIRONMENT_PREFIX + name.upper()) for name, value in variables.items()}
    for name in _KINDS:
        if name in given:
            option = "--" + name.replace("_", "-")
            found[name] = (_converted(name, given[name], option), option)
    config = Config(**{name: value for name, (value, _) in found.items()})
    return Settings(config, {name: found[name][1] if name in found else BUILT_IN for name in _KINDS})
