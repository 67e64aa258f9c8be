"""Use case: read and report the published trust, for the commands of `cascade trust`."""

from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

import msgspec
from tuf.api.metadata import Root, Targets

from cloud.cli import published_trust
from cloud.cli.connection import cache_directory, setting, trust_errors, trust_pin
from cloud.cli.errors import EXIT_USAGE, EXIT_VERIFICATION, CliError
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError
from cloud.fabric.tuf.checking import PublicationRefused, read_metadata
from cloud.fabric.tuf.folder import TARGETS_FILE, Folder, FolderError
from cloud.fabric.tuf.offline import Authority, authorities
from cloud.fabric.tuf.repository import MetadataFile
from cloud.fabric.tuf.targets import TargetsError, read_content
from protocol.ids import IdError
from protocol.signed.trust import TARGETS

WARN_DAYS = 60
"""Days before an end from which on reports warn about it."""


class Shown(msgspec.Struct, frozen=True):
    """Report on the published trust. All dates are UTC. `warnings` names what has ended or ends within `WARN_DAYS`."""

    targets_version: int
    targets_expire_at: datetime
    root_version: int
    root_expires_at: datetime
    fabric_url: str
    breakwater_url: str
    authorities: tuple[Authority, ...]
    signing_keys: tuple[dict[str, str], ...]
    warnings: tuple[str, ...]
    repository_url: str = ""


@contextmanager
def folder_errors() -> Iterator[None]:
    """Turn errors about a folder or its content into CliError: exit code 65 if it does not verify, otherwise 2."""
    try:
        yield
    except PublicationRefused as error:
        raise CliError(EXIT_VERIFICATION, "trust_not_verified", f"cannot use this trust: {error}") from error
    except (TargetsError, IdError, FolderError, KeyFileError) as error:
        text = str(error)
        raise CliError(
            EXIT_USAGE, "trust_unusable", text if text.startswith("cannot") else f"cannot use this trust: {text}"
        ) from error


def fetch_folder(args: Namespace, source: str = "") -> Folder:
    """Fetch the trust that is published now, verified under the pin. The newest root is the only one in the result.

    `source` is the URL of a repository; if it is empty, `--url` or CASCADE_URL names the repository. Raises CliError.
    """
    url = (source or setting(args.url, "CASCADE_URL", "--url")).rstrip("/")
    pin = trust_pin(args)
    with trust_errors():
        files = published_trust.read(url, pin, cache_directory(pin), utc_now, judge_dates=not args.accept_expired)
    roots = [data for path, data in files.items() if path.startswith("metadata/root_history/")]
    newest = max(roots, key=lambda data: int(read_metadata(data, Root).signed.version))
    root = MetadataFile(role="root", version=read_metadata(newest, Root).signed.version, data=newest)
    targets = files[f"metadata/{TARGETS_FILE}"]
    version = read_metadata(targets, Targets).signed.version
    contents = {name: files[f"targets/{name}"] for name in TARGETS}
    return Folder((root,), MetadataFile(role="targets", version=version, data=targets), contents)


def describe(folder: Folder) -> Shown:
    """Return the report on a folder. Raises TargetsError."""
    targets, root = read_metadata(folder.targets.data, Targets).signed, read_metadata(folder.root.data, Root).signed
    content, now = read_content(folder.files), utc_now()
    ends = [("the targets", targets.expires), (f"root {root.version}", root.expires)]
    ends += [(f"{entry.place} {entry.key_id}", entry.not_after) for entry in authorities(content.bundle)]
    return Shown(
        targets_version=targets.version,
        targets_expire_at=targets.expires,
        root_version=root.version,
        root_expires_at=root.expires,
        fabric_url=content.urls.fabric,
        breakwater_url=content.urls.breakwater,
        authorities=tuple(authorities(content.bundle)),
        signing_keys=tuple(
            {"kid": key.kid, "signs": " ".join(key.typs), "until": key.not_after.isoformat()}
            for key in content.keys.keys
        ),
        warnings=tuple(_warning(what, end, now) for what, end in ends if end - now < timedelta(days=WARN_DAYS)),
        repository_url=content.urls.repository,
    )


def _warning(what: str, end: datetime, now: datetime) -> str:
    return f"{what} {'ended' if end <= now else 'ends'} at {end:%Y-%m-%d %H:%M} UTC"
