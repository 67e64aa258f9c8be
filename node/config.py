"""Settings of the agent: built-in value < `cascadia.toml` < `CASCADIA_*` < command-line option.

Every setting has one meaning and a bound. An unknown key is refused, since a mistyped key would be a silent default. A TPM
other than the kernel's own needs `mode = "development"` (`node.hwbind.tpm.check_tcti`), which `status` then shows.
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
    """The settings cannot be used; the text names the key and its source."""

    exit = Exit.USAGE
    code = "config_invalid"


class Config(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The settings as the file spells them.

    `heartbeat_seconds`: how long the slots are in which a node without a wake channel asks again (design, section
    10). `settle_seconds`: how long a start waits for the cloud before the stored evidence decides.
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
    except (OSError, ValueError) as error:  # TOMLDecodeError, and what is not UTF-8
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
    """The settings in force. `options` holds those given on the command line (None = not given); `config` names
    another file. Raises ConfigError."""
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
