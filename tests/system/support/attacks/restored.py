"""Steps: an older state directory or older licence files are put back, also after a TPM clear."""

import shutil
from collections.abc import Callable

from tests.system.support.attacks.life import GENERATION_1, LEASE_1, LEASE_2, RECORD, Life, Step


def _directory(stage: str) -> Callable[[Life], None]:
    return lambda life: life.put_back(stage)


def _files(stage: str, *names: str) -> Callable[[Life], None]:
    return lambda life: life.put_file_back(stage, *names)


def _files_of(base: str, stage: str, *names: str) -> Callable[[Life], None]:
    """The directory of stage `base`, with files of another stage."""

    def do(life: Life) -> None:
        life.put_back(base)
        life.put_file_back(stage, *names)

    return do


def _later_generation_deleted(life: Life) -> None:
    life.put_file_back("active", *GENERATION_1, *LEASE_2, "identity/g-2")


def _tombstone_deleted(life: Life) -> None:
    life.put_back("revoked")
    life.put_file_back("again", *LEASE_2)
    shutil.rmtree(life.state / "tombstones")


ROLLBACK: dict[str, Step] = {
    "the directory from before a suspension": Step("suspended", _directory("active"), mended="suspended"),
    "the lease from before a suspension": Step("suspended", _files("active", *LEASE_1)),
    "one of its two files": Step("suspended", _files("active", LEASE_1[0])),
    "the lease and the floor record": Step("suspended", _files("active", *LEASE_1, *RECORD)),
    "the directory from before a resumption": Step("resumed", _directory("suspended")),
    "the first directory after a resumption": Step("resumed", _directory("active")),
    "the directory from before an activation": Step("again", _directory("active")),
    "the lease from before an activation": Step("again", _files("active", *LEASE_1)),
    "its generation, and the later one deleted": Step("again", _later_generation_deleted),
    "its generation, and current.json": Step("again", _files("active", *GENERATION_1)),
    "the directory from before a revocation": Step("revoked", _directory("again")),
    "the lease from before a revocation": Step("revoked", _files("again", *LEASE_2)),
    "the lease, and the tombstone deleted": Step("revoked", _tombstone_deleted),
}
CLEAR: dict[str, Step] = {
    "the directory from before a suspension": Step("cleared", _directory("active")),
    "the lease from before a suspension": Step(
        "cleared", _files_of("suspended", "active", *LEASE_1), uses=("suspended",)
    ),
    "the directory from before an activation": Step("cleared", _directory("resumed"), uses=("resumed",)),
    "the generation from before an activation": Step(
        "cleared", _files_of("again", "active", *GENERATION_1), uses=("again",)
    ),
    "the directory from before a revocation": Step("cleared", _directory("again"), uses=("revoked",)),
    "the lease from before a revocation": Step("cleared", _tombstone_deleted, uses=("revoked",)),
    "the first directory, after another activation": Step("readmitted", _directory("active")),
}
