"""Command group: `cascade recovery`, which decides about machines that ask for their node back."""

from argparse import ArgumentParser

from cloud.cli.options import Commands, json_option, server_options
from cloud.cli.recovery import cases, codes, policy


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    cases.add_options(actions)
    codes.add_options(
        actions.add(
            "codes",
            "issue, list and revoke recovery codes",
            "A recovery code lets a machine have its node back without an operator. It works once, and takes no new seat.",
        )
    )
    policy.add_options(actions)
