"""Helper: the fixtures of releases, unpacked. `make.py` makes one of a release's own programs."""

import tarfile
from datetime import datetime
from pathlib import Path

import msgspec

from lab.cloud import Cloud
from tests.system.support.harness import new_cloud

FOLDER = Path(__file__).parent
RELEASES = tuple(sorted(path.parent.name for path in FOLDER.glob("*/fixture.json")))
"""The names of the fixtures. The first is the state before there were packages."""


class Released(msgspec.Struct, frozen=True):
    """What a fixture is. `directory` is where it was made; `port` is the first port of its cloud."""

    version: str
    made_at: datetime
    directory: str
    port: int
    node: str
    generation: int
    seq: int


def unpack(name: str, directory: Path) -> Released:
    """Unpack the fixture of a release: `directory`/chip, /machine/state and /cloud."""
    found = msgspec.json.decode((FOLDER / name / "fixture.json").read_bytes(), type=Released)
    with tarfile.open(FOLDER / name / "files.tar.xz") as archive:
        # Python 3.11 before 3.11.4 has no filters, and later releases warn without one.
        setattr(archive, "extraction_filter", getattr(tarfile, "fully_trusted_filter", None))  # noqa: B010 (see above)
        archive.extractall(directory)  # noqa: S202 (our own file)
    return found


def cloud_in(directory: Path, found: Released) -> Cloud:
    """The unpacked cloud, not started. It has its old addresses, so one of its copies runs at a time."""
    cloud = new_cloud(directory)
    settings = cloud.directory / "operator" / "env"
    settings.write_text(settings.read_text().replace(found.directory, str(directory)))
    cloud.port = found.port
    return cloud
