"""`tools.packages.shipped`: the list of what ships is that of the lock."""

from importlib.metadata import distribution
from pathlib import Path

from tools.packages import shipped

REPOSITORY = Path(__file__).parent.parent.parent.parent


def test_the_list_is_that_of_the_lock() -> None:
    assert shipped.problems(REPOSITORY) == []


def test_a_library_too_many_or_of_another_version_is_named(tmp_path: Path) -> None:
    for name in ("pyproject.toml", "requirements.lock"):
        (tmp_path / name).write_text((REPOSITORY / name).read_text("utf-8"), "utf-8")
    rows = shipped.read((REPOSITORY / shipped.PAGE).read_text("utf-8"))
    rows["cascadia", "trio"] = ("0.1", "MIT")
    rows["cascadia", "zope"] = ("1.0", "ZPL-2.1")
    (tmp_path / "packaging").mkdir()
    (tmp_path / shipped.PAGE).write_text(shipped.written(rows), "utf-8")
    found = shipped.problems(tmp_path)
    assert [each.partition(":")[0] for each in found] == ["cascadia trio", "cascadia zope"]


def test_the_list_is_read_as_it_is_written() -> None:
    text = (REPOSITORY / shipped.PAGE).read_text("utf-8")
    rows = shipped.read(text)
    assert shipped.written(rows) == text
    assert rows["cascadia", "cryptography"][1] == "Apache-2.0 OR BSD-3-Clause"
    assert not any(
        library == "cloud" or library.startswith("asyncpg") for package, library in rows if package == "cascadia"
    )


def test_a_licence_is_read_from_the_metadata() -> None:
    assert shipped.licence(distribution("cryptography")) == "Apache-2.0 OR BSD-3-Clause"
    assert shipped.licence(distribution("tpm2-pytss")) == "BSD-2-Clause"
