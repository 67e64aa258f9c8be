"""Values: the settings of the agent. A command-line option overrides the environment (`CASCADIA_*`), which overrides
`cascadia.toml`, which overrides the built-in value.

An unknown key in the file is refused, because a mistyped key would leave the default in force without a message.

A TPM connection other than the kernel's resource manager needs `mode = "development"`
(`node.hwbind.tpm.check_tcti`). `cascadia status` shows development mode. Every session proof repeats it
(`protocol.messages.sessions.ProofClaims`), and `cascade node list` and `cascade node show` show it to operators.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from node.errors import NodeError
from node.exits import Exit

AGENT_VERSION = "0.1.0"
CONFIG_FILE = Path("/etc/cascadia/cascadia.toml")

HEARTBEAT_SECONDS_MIN = 2
HEARTBEAT_SECONDS_MAX = 3600


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

    def __post_init__(self) -> None:
        if not HEARTBEAT_SECONDS_MIN <= self.heartbeat_seconds <= HEARTBEAT_SECONDS_MAX:
            raise ValueError(f"heartbeat_seconds is between {HEARTBEAT_SECONDS_MIN} and {HEARTBEAT_SECONDS_MAX}")
        if not 1 <= self.settle_seconds <= 120:
            raise ValueError("settle_seconds is between 1 and 120")


_FROM_TEXT = {"heartbeat_seconds": int, "settle_seconds": int}


def _from_file(path: Path, required: bool) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError:
        if required:
            raise ConfigError(f"cannot read the settings: {path} does not exist") from None
        return {}
    except (OSError, ValueError) as error:  # ValueError: TOMLDecodeError, or text that is not UTF-8
        raise ConfigError(f"cannot read the settings in {path}: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name in Config.__struct_fields__:
        text = environment.get(f"CASCADIA_{name.upper()}")
        if text:
            convert = _FROM_TEXT.get(name, str)
            try:
                values[name] = convert(text)
            except ValueError as error:
                raise ConfigError(f"cannot use CASCADIA_{name.upper()}: {error}") from error
    return values


def load_config(options: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Config:
    """The settings in force.

    Args:
        options: values of the command line by setting; None means "not given". `config` names the settings file.
        environment: the environment's variables; by default those of the process.

    A settings file that is named must exist. The default file may be missing. Raises ConfigError.
    """
    environment = os.environ if environment is None else environment
    named = options.get("config") or environment.get("CASCADIA_CONFIG")
    values = _from_file(Path(named) if named else CONFIG_FILE, required=bool(named))
    values |= _from_environment(environment)
    values |= {name: options[name] for name in Config.__struct_fields__ if options.get(name) is not None}
    values |= {name: str(values[name]) for name in ("state_dir", "socket") if name in values}
    try:
        return msgspec.convert(values, Config, dec_hook=lambda kind, value: kind(value))
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"cannot use the settings: {error}") from error
