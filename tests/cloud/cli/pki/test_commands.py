"""The group `cascade pki`: each command has a module of its name."""

from argparse import ArgumentParser
from importlib import import_module
from pathlib import Path

from cloud.cli.pki import commands


def test_each_command_is_the_module_of_its_name() -> None:
    group = ArgumentParser(prog="cascade pki")
    commands.add_options(group)
    modules = {path.stem for path in Path(commands.__file__).parent.glob("*.py")}
    named = {name for name in modules if hasattr(import_module(f"cloud.cli.pki.{name}"), "add_options")}
    assert named - {"commands"} == {
        "ceremony",
        "check",
        "crl",
        "export",
        "issue",
        "renew",
        "revoke",
        "rotate",
        "status",
    }
    for name in sorted(named - {"commands"}):
        assert f"\n    {name} " in group.format_help(), name
