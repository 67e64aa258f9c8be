"""The generator of gates on folders of unit files: what it binds, what starts with a grant, what it leaves alone."""

import os
import subprocess
from pathlib import Path

import pytest

from node.gating.names import instance_of

GENERATOR = Path(__file__).parents[2] / "packaging/cascadia/generator/cascadia-gates"
ETC, RUN, LIB = "etc/systemd/system", "run/systemd/system", "usr/lib/systemd/system"
QUADLETS = "etc/containers/systemd"
LINE = "[Unit]\nX-Cascadia-Entitlement=vision\n"
INSTALL = "[Install]\nWantedBy=multi-user.target\n"
Bound = dict[str, list[str]]


def generate(folder: Path, files: dict[str, str | None], shell: str = "/bin/sh") -> tuple[Bound, Bound, str]:
    """Grants by unit, units that start by grant, and the messages. A file without text is a link to /dev/null."""
    root, out = folder / "root", folder / "out"
    out.mkdir(parents=True)
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.symlink_to("/dev/null")
        else:
            path.write_bytes(text.encode())
    done = subprocess.run(
        [shell, str(GENERATOR), str(out), str(out), str(out), str(root)], capture_output=True, check=True, timeout=20
    )
    bound, starts = {}, {}
    for path in sorted(out.iterdir()):
        if path.name.endswith(".d"):
            bound[path.name[:-2]] = _bound(path / "50-cascadia-gate.conf")
        else:
            grant = path.name.removeprefix("cascadia-gate@").removesuffix(".service.wants")
            starts[grant] = sorted(link.name for link in path.iterdir())
            assert all(str(link.readlink()) == f"../{link.name}" for link in path.iterdir())
    assert done.stdout == b""
    return bound, starts, done.stderr.decode()


def _bound(drop_in: Path) -> list[str]:
    """The grants of a drop-in, after a check that each has its four lines."""
    lines = drop_in.read_text().splitlines()
    grants = [line.partition("granted/")[2] for line in lines if line.startswith("AssertPathExists=")]
    expected = [
        line
        for grant in grants
        for line in (
            f"AssertPathExists=/run/cascadia/granted/{grant}",
            f"BindsTo=cascadia-gate@{grant}.service",
            f"After=cascadia-gate@{grant}.service",
            f"Wants=cascadia-gate@{grant}.path",
        )
    ]
    assert lines[1:] == ["[Unit]", *expected]
    return grants


@pytest.mark.parametrize(
    ("files", "bound", "starts"),
    [
        ({f"{LIB}/a.service": "[Unit]\nDescription=a\n"}, {}, {}),
        ({f"{LIB}/a.service": LINE + INSTALL}, {"a.service": ["vision"]}, {}),
        (
            {f"{LIB}/a.service": LINE + INSTALL, f"{ETC}/multi-user.target.wants/a.service": None},
            {"a.service": ["vision"]},
            {"vision": ["a.service"]},
        ),
        (
            {f"{ETC}/a.timer": LINE, f"{RUN}/timers.target.requires/a.timer": None},
            {"a.timer": ["vision"]},
            {"vision": ["a.timer"]},
        ),
        ({f"{ETC}/a.service": "[Unit]\nX-Cascadia-Licence=yes\n"}, {"a.service": [".licence"]}, {}),
        ({f"{ETC}/a.service": "[Unit]\nX-Cascadia-Licence=no\n"}, {}, {}),
        ({f"{ETC}/a.service": LINE + "X-Cascadia-Licence=on\n"}, {"a.service": ["vision", ".licence"]}, {}),
        # The line in the wrong section, with blanks, with a line end of another system, without a last line end.
        ({f"{ETC}/a.service": "[Service]\n  X-Cascadia-Entitlement = vision \r"}, {"a.service": ["vision"]}, {}),
        ({f"{ETC}/a.service": LINE + "X-Cascadia-Entitlement=sound\n"}, {"a.service": ["vision", "sound"]}, {}),
        ({f"{ETC}/a.service": LINE + "X-Cascadia-Entitlement=\n"}, {}, {}),
        ({f"{ETC}/a.service": LINE + "X-Cascadia-Entitlement=\nX-Cascadia-Entitlement=b\n"}, {"a.service": ["b"]}, {}),
        ({f"{ETC}/a.service": "[Unit]\n#X-Cascadia-Entitlement=a\n;X-Cascadia-Entitlement=b\n"}, {}, {}),
        ({f"{ETC}/a.service": "[Unit]\nDescription=a \\\nX-Cascadia-Entitlement=b\n"}, {}, {}),
        ({f"{ETC}/a.service": "[Unit]\nX-Cascadia-Entitlement=a\\\n# comment\nb\n"}, {"a.service": [r"a\x20b"]}, {}),
        (
            {f"{ETC}/a.service": LINE[:-1] + "\\", f"{ETC}/b.service": LINE[:-1] + "\\\n", f"{LIB}/c.service": LINE},
            {"a.service": ["vision"], "b.service": ["vision"], "c.service": ["vision"]},
            {},
        ),
        # A drop-in counts after the unit, whatever its folder; drop-ins count in the order of their names.
        ({f"{ETC}/a.service.d/9.conf": LINE}, {"a.service": ["vision"]}, {}),
        ({f"{LIB}/a.service": LINE, f"{ETC}/a.service.d/9.conf": "X-Cascadia-Entitlement=\n"}, {}, {}),
        (
            {
                f"{ETC}/a.service.d/2.conf": "X-Cascadia-Entitlement=\nX-Cascadia-Entitlement=two\n",
                f"{LIB}/a.service.d/1.conf": "X-Cascadia-Entitlement=one\n",
                f"{LIB}/a.service.d/3.conf": "X-Cascadia-Entitlement=three\n",
            },
            {"a.service": ["two", "three"]},
            {},
        ),
        # A file of the same name in an earlier folder hides a file: root has taken the line away, or masked the unit.
        ({f"{LIB}/a.service": LINE, f"{ETC}/a.service": "[Unit]\n"}, {}, {}),
        ({f"{LIB}/a.service": LINE, f"{RUN}/a.service": None}, {}, {}),
        ({f"{LIB}/a.service": "[Unit]\n", f"{ETC}/a.service": LINE}, {"a.service": ["vision"]}, {}),
        ({f"{LIB}/a.service.d/1.conf": LINE, f"{ETC}/a.service.d/1.conf": None}, {}, {}),
        # A template: its instances that are enabled start.
        (
            {f"{LIB}/a@.service": LINE, f"{ETC}/multi-user.target.wants/a@x.service": None},
            {"a@.service": ["vision"]},
            {"vision": ["a@x.service"]},
        ),
        ({f"{LIB}/a@.service": LINE}, {"a@.service": ["vision"]}, {}),
        ({f"{ETC}/a@x.service.d/1.conf": LINE}, {"a@x.service": ["vision"]}, {}),
        # Quadlets.
        (
            {f"{QUADLETS}/a.container": LINE + INSTALL},
            {"a.service": ["vision"]},
            {"vision": ["a.service"]},
        ),
        ({f"{QUADLETS}/a.container": LINE}, {"a.service": ["vision"]}, {}),
        ({f"{QUADLETS}/a.pod": LINE + INSTALL}, {"a-pod.service": ["vision"]}, {"vision": ["a-pod.service"]}),
        ({f"{QUADLETS}/sub/a.kube": LINE}, {"a.service": ["vision"]}, {}),
        ({f"{QUADLETS}/a.container": LINE + "[Container]\nServiceName=b\n"}, {"b.service": ["vision"]}, {}),
        ({f"{QUADLETS}/a.container.d/1.conf": LINE}, {"a.service": ["vision"]}, {}),
        ({f"{QUADLETS}/users/a.container": LINE}, {}, {}),
        # What is no unit, or is the agent's own.
        ({f"{ETC}/cascadia.service": LINE, f"{ETC}/cascadia-gate@.service": LINE}, {}, {}),
        ({f"{ETC}/a b.service": LINE, f"{ETC}/a$(id).service": LINE, f"{ETC}/é.service": LINE}, {}, {}),
        ({f"{ETC}/a.service.wants": LINE, f"{ETC}/a.conf": LINE, f"{ETC}/README": LINE}, {}, {}),
        ({f"{ETC}/x\\x2dy.service": LINE}, {"x\\x2dy.service": ["vision"]}, {}),
        ({f"{ETC}/a=b.service": LINE}, {}, {}),
        ({f"{ETC}/{'a' * 230}.service": LINE}, {f"{'a' * 230}.service": ["vision"]}, {}),
    ],
)
def test_units(tmp_path: Path, files: dict[str, str | None], bound: Bound, starts: Bound) -> None:
    assert generate(tmp_path, files) == (bound, starts, "")


NAMES = ["a b", "a/b", "/", "-x", ".x", "%i", "$(id)", "`id`", "a\\b", "a;b", "a'\"b", "é", "*", "a=b", "#a", "日本"]


@pytest.mark.parametrize("shell", ["/bin/sh", "/bin/bash"])
def test_names_are_literal_and_escaped(tmp_path: Path, shell: str) -> None:
    text = "[Unit]\n" + "".join(f"X-Cascadia-Entitlement={name}\n" for name in NAMES)
    bound, starts, said = generate(tmp_path, {f"{QUADLETS}/a.container": text + INSTALL}, shell)
    assert bound == {"a.service": [instance_of(name) for name in NAMES]}
    assert starts == {instance_of(name): ["a.service"] for name in NAMES}
    assert said == ""


@pytest.mark.parametrize(
    "value", ["Entitlement=" + "é" * 60, "Entitlement=a\tb", "Licence=maybe", "Licence=yes please"]
)
def test_a_value_that_cannot_be_used_keeps_the_unit_from_starting(tmp_path: Path, value: str) -> None:
    bound, _, said = generate(tmp_path, {f"{ETC}/a.service": f"[Unit]\nX-Cascadia-{value}\n"})
    assert bound == {"a.service": [".invalid"]}
    assert said.startswith("cascadia-gates: ")
    assert f"{ETC}/a.service" in said


@pytest.mark.parametrize(
    "line",
    [
        "X-Cascadia-Entitlment=vision", "X-Cascadia-License=yes", "X-Cascadia-Entitlement: vision", "X-Cascadia=yes",
        "X-Cascadia-Entitlements=", "x-cascadia-entitlement=vision", "X-Cascadia-Entitlement", "X-CascadiaLicence=no",
    ],
)  # fmt: skip
def test_a_mistyped_line_keeps_the_unit_from_starting_and_is_named(tmp_path: Path, line: str) -> None:
    bound, _, said = generate(tmp_path, {f"{ETC}/a.service": f"[Unit]\n{line}\n", f"{ETC}/b.service": LINE})
    assert bound == {"a.service": [".invalid"], "b.service": ["vision"]}
    assert f"{ETC}/a.service: no such line: {line}. The lines are X-Cascadia-Entitlement=NAME" in said


def test_an_empty_line_in_a_drop_in_takes_a_mistyped_one_back(tmp_path: Path) -> None:
    files: dict[str, str | None] = {
        f"{LIB}/a.service": "[Unit]\nX-Cascadia-License=yes\n",
        f"{ETC}/a.service.d/1.conf": "X-Cascadia-Licence=\nX-Cascadia-Licence=yes\n",
    }
    assert generate(tmp_path, files)[0] == {"a.service": [".licence"]}


def run(folder: Path, names: list[str], path: str = os.environ["PATH"]) -> tuple[int, str]:
    """Run the generator for units with the line. NORMAL is `out`, and EARLY is `early`."""
    for name in ("out", "early"):
        (folder / name).mkdir(exist_ok=True)
    for name in names:
        (folder / "root" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "root" / name).write_text(LINE)
    places = [str(folder / name) for name in ("out", "early", "late", "root")]
    done = subprocess.run(
        ["/bin/sh", str(GENERATOR), *places],
        capture_output=True, text=True, check=False, timeout=20, env={"PATH": path},
    )  # fmt: skip
    return done.returncode, done.stderr


def test_a_unit_that_cannot_be_bound_is_masked_and_the_others_are_bound(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/b.service.d").touch()  # in the place of a directory
    (tmp_path / "out/c.service.d/50-cascadia-gate.conf").mkdir(parents=True)
    code, said = run(tmp_path, [f"{ETC}/{name}.service" for name in "abcd"])
    assert code == 1
    assert "cannot bind b.service to its grant, so it is masked" in said
    assert sorted(path.name for path in (tmp_path / "early").iterdir()) == ["b.service", "c.service"]
    assert all(str(path.readlink()) == "/dev/null" for path in (tmp_path / "early").iterdir())
    for name in "ad":
        assert _bound(tmp_path / f"out/{name}.service.d/50-cascadia-gate.conf") == ["vision"]


def test_a_unit_that_can_be_neither_bound_nor_masked_is_named(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.service.d").touch()
    (tmp_path / "early/a.service/null").mkdir(parents=True)
    code, said = run(tmp_path, [f"{ETC}/a.service", f"{ETC}/b.service"])
    assert (code, "cannot mask it: IT CAN START WITHOUT A LICENCE" in said) == (1, True)
    assert _bound(tmp_path / "out/b.service.d/50-cascadia-gate.conf") == ["vision"]


def test_units_that_cannot_be_read_do_not_start(tmp_path: Path) -> None:
    """For example because a file is gone before its turn: awk then ends without a result."""
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "awk").write_text("#!/bin/sh\nexit 2\n")
    (programs / "awk").chmod(0o755)
    names = [f"{ETC}/a.service", f"{ETC}/b.timer.d/1.conf", f"{QUADLETS}/c.container", f"{QUADLETS}/d.pod"]
    code, said = run(tmp_path, names, f"{programs}:{os.environ['PATH']}")
    assert (code, "so none of them starts" in said) == (1, True)
    for unit in ("a.service", "b.timer", "c.service", "d-pod.service"):
        assert _bound(tmp_path / f"out/{unit}.d/50-cascadia-gate.conf") == [".invalid"]


def test_what_is_no_file_is_not_read(tmp_path: Path) -> None:
    folder = tmp_path / "root" / ETC
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe.service")
    (folder / "folder.service").mkdir()
    (folder / "loop.service").symlink_to("loop.service")
    (folder / "device.service").symlink_to("/dev/zero")
    (folder / "linked.service").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_text(LINE)
    (folder / "binary.service").write_bytes(bytes(range(256)) * 1000 + LINE.encode())
    bound, _, _ = generate(tmp_path, {f"{ETC}/a.service": LINE})
    assert bound.keys() - {"binary.service"} == {"a.service", "linked.service"}


def test_a_system_without_a_line_gets_nothing(tmp_path: Path) -> None:
    assert generate(tmp_path, {f"{LIB}/a{number}.service": "[Unit]\n" for number in range(500)}) == ({}, {}, "")
