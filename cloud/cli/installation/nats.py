"""Command: `cascade config nats`, which writes the configuration of a NATS server and the services' credentials.

The keys of the two accounts are made once and kept, encrypted, beside Fabric's other keys. The key of the operator is
new each time and kept nowhere: a new configuration needs no old one. Seeds are in no output and no argument.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from cloud.cli.errors import EXIT_INTERNAL, EXIT_USAGE, CliError
from cloud.cli.options import directory_option
from cloud.cli.secret_files import refuse_existing
from cloud.cli.show import emit
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError, read_key, read_passphrase, write_keys, write_secret
from cloud.events.nats.keys import CONSUMERS_KEY, SERVICES_KEY
from cloud.events.nats.server import AccountKeys, ServerFiles, server_configuration, service_credentials
from cloud.fabric.settings import FabricSettings
from cloud.process.settings import SettingsError, load_settings

SERVICES = ("breakwater", "fabric")
CREDENTIALS_FILE = "nats.creds"


def add_options(parser: ArgumentParser) -> None:
    """Add the options of the command."""
    directory_option(parser)
    parser.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="configuration to write; must not exist"
    )
    parser.add_argument(
        "--listen",
        default="0.0.0.0:4222",
        metavar="ADDRESS:PORT",
        help="where the server listens (default %(default)s)",
    )
    parser.add_argument("--certificate", required=True, metavar="FILE", help="the server's certificate, on its machine")
    parser.add_argument("--key", required=True, metavar="FILE", help="the key of the certificate, on its machine")
    parser.add_argument("--store", required=True, metavar="FOLDER", help="folder of the streams, on its machine")
    parser.set_defaults(run=write)


def write(args: Namespace) -> None:
    """Write the configuration and new credentials of both services. Credentials of an earlier run end.

    Raises CliError.
    """
    refuse_existing(args.out)
    try:
        settings = load_settings(args.dir / "fabric" / "settings.toml", FabricSettings)
        keys = _account_keys(settings.path(settings.keys), read_passphrase(settings.path(settings.passphrase_file)))
        now = utc_now()
        files = ServerFiles(args.certificate, args.key, args.store)
        text = server_configuration(keys, Ed25519PrivateKey.generate(), files, args.listen, now)
        written = [args.dir / service / CREDENTIALS_FILE for service in SERVICES]
        for service, path in zip(SERVICES, written, strict=True):
            write_secret(path, service_credentials(keys, Ed25519PrivateKey.generate(), service, now).encode())
        args.out.write_text(text, encoding="utf-8")
    except SettingsError as error:
        raise CliError(EXIT_USAGE, "settings_unusable", str(error), "Name the directory of an installation.") from error
    except (KeyFileError, OSError) as error:
        raise CliError(EXIT_INTERNAL, "file_not_written", str(error), "Correct the cause and repeat.") from error
    emit({"configuration": str(args.out), "credentials": [str(path) for path in written]}, args.json, _human)


def _account_keys(folder: Path, passphrase: bytes) -> AccountKeys:
    """Return the keys of the accounts. They are made if they do not exist. Raises KeyFileError."""
    paths = [folder / name for name in (SERVICES_KEY, CONSUMERS_KEY)]
    if not all(path.exists() for path in paths):
        write_keys({path: Ed25519PrivateKey.generate() for path in paths}, passphrase)
    services, consumers = (read_key(path, passphrase) for path in paths)
    if not isinstance(services, Ed25519PrivateKey) or not isinstance(consumers, Ed25519PrivateKey):
        raise KeyFileError(f"cannot use {folder}: a key of NATS is not an Ed25519 key")
    return AccountKeys(services, consumers)


def _human(document: dict[str, Any]) -> str:
    table = f'[nats]\nurl = "tls://HOST:4222"\nca_file = "CA.pem"\ncredentials_file = "{CREDENTIALS_FILE}"'
    files = "\n".join([document["configuration"], *document["credentials"]])
    return f"{files}\n\nAdd this table to the settings of both services, and restart them after the server:\n\n{table}"
