"""Values: the settings of the agent. A command-line option overrides the environment (`CASCADIA_*`), which overrides
`cascadia.toml`, which overrides the built-in value.

An unknown key in the file is refused, and so is an unknown variable `CASCADIA_*`, because a mistyped name would leave
the default in force without a message. An empty variable counts as not set. Every other empty value is refused.

A TPM connection other than the kernel's resource manager needs `mode = "development"`
(`node.hwbind.tpm.check_tcti`). `cascadia status` shows development mode. Every session proof repeats it
(`protocol.messages.sessions.ProofClaims`), and `cascade node list` and `cascade node show` show it to operators.
"""

import os
import stat
import tomllib
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_type_hints

import msgspec

from node.errors import NodeError
from node.exits import Exit

AGENT_VERSION = "0.1.0"
BUILT_AT = datetime(2026, 11, 30, tzinfo=UTC)
"""A time shortly before the build of this version. No machine that runs this version is earlier. `tools.changelog
collect` writes the day before the release here."""
CONFIG_FILE = Path("/etc/cascadia/cascadia.toml")
CONFIG_BYTES_MAX = 64 * 1024
"""A file with every setting and its comments has 2 kB."""
ENVIRONMENT_PREFIX = "CASCADIA_"

HEARTBEAT_SECONDS_MIN = 2
HEARTBEAT_SECONDS_MAX = 3600
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
        if not HEARTBEAT_SECONDS_MIN <= self.heartbeat_seconds <= HEARTBEAT_SECONDS_MAX:
            raise ValueError(f"heartbeat_seconds is between {HEARTBEAT_SECONDS_MIN} and {HEARTBEAT_SECONDS_MAX}")
        if not 1 <= self.settle_seconds <= 120:
            raise ValueError("settle_seconds is between 1 and 120")


_KINDS = get_type_hints(Config)
"""Setting -> its type."""


def _read_file(path: Path, required: bool) -> bytes:
    """The bytes of a settings file. A missing file that is not required is empty. Raises ConfigError."""
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
        raise ConfigError(f"cannot read the settings in {path}: {getattr(error, 'strerror', error)}") from error
    if len(data) > CONFIG_BYTES_MAX:
        raise ConfigError(f"cannot read the settings in {path}: it is larger than {CONFIG_BYTES_MAX} bytes")
    return data


def parse_file(data: bytes, path: Path) -> dict[str, Any]:
    """The checked settings in the bytes of a settings file. `path` is for the text of an error. Raises ConfigError."""
    try:
        table = tomllib.loads(data.decode())
    except RecursionError as error:
        raise ConfigError(f"cannot read the settings in {path}: its values are nested too deeply") from error
    except ValueError as error:  # TOMLDecodeError, or text that is not UTF-8
        raise ConfigError(f"cannot read the settings in {path}: {error}") from error
    _refuse_unknown(table, _KINDS, f"the settings in {path}: there is no setting")
    return {name: _converted(name, value, f"`{name}` in {path}") for name, value in table.items()}


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
        raise ConfigError(f"cannot use {source}: {error}") from error
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


def _credentials(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings whose files systemd has provided (`LoadCredential=tpm-owner-auth:FILE`, systemd.exec(5))."""
    directory = environment.get("CREDENTIALS_DIRECTORY")
    if not directory:
        return {}
    provided = {name: Path(directory) / name.replace("_", "-") for name in CREDENTIALS}
    return {name: path for name, path in provided.items() if os.path.lexists(path)}


def load_config(options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Config:
    """The settings in force.

    Args:
        options: values of the command line by setting; None means "not given". `config` names the settings file.
        environment: the environment's variables; by default those of the process.

    A credential that systemd provides is the default of its setting. A settings file that is named must exist. The
    default file may be missing. Raises ConfigError.
    """
    environment = os.environ if environment is None else environment
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("config") == "":
        raise ConfigError("cannot use --config: it is empty")
    # The environment is checked first, so that a mistyped variable is reported before a missing file.
    variables = _from_environment(environment)
    named = given.get("config") or environment.get(ENVIRONMENT_PREFIX + "CONFIG")
    path = Path(named) if named else CONFIG_FILE
    values = parse_file(_read_file(path, required=bool(named)), path) | variables
    for name in _KINDS:
        if name in given:
            values[name] = _converted(name, given[name], "--" + name.replace("_", "-"))
    return Config(**(_credentials(environment) | values))
