"""Reports on published trust: warnings before and after an end, and errors as exit codes."""

from datetime import timedelta

import pytest

from cloud.cli.errors import EXIT_USAGE, EXIT_VERIFICATION, CliError
from cloud.cli.trust.published import WARN_DAYS, _warning, folder_errors
from cloud.fabric.tuf.checking import PublicationRefused
from cloud.fabric.tuf.folder import FolderError
from tests.simulators.repository import START


def test_a_warning_names_the_end() -> None:
    assert _warning("root 1", START, START) == f"root 1 ended at {START:%Y-%m-%d %H:%M} UTC"
    assert _warning("root 1", START + timedelta(days=WARN_DAYS), START).startswith("root 1 ends at ")


@pytest.mark.parametrize(
    ("error", "exit_code", "code", "text"),
    [
        (
            PublicationRefused("root 2 is missing"),
            EXIT_VERIFICATION,
            "trust_not_verified",
            "cannot use this trust: root 2 is missing",
        ),
        (FolderError("cannot read it"), EXIT_USAGE, "trust_unusable", "cannot read it"),
        (FolderError("no such CA"), EXIT_USAGE, "trust_unusable", "cannot use this trust: no such CA"),
    ],
)
def test_errors_have_exit_codes(error: Exception, exit_code: int, code: str, text: str) -> None:
    with pytest.raises(CliError) as caught, folder_errors():
        raise error
    assert (caught.value.exit_code, caught.value.code, caught.value.text) == (exit_code, code, text)
