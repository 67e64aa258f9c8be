"""Command group: `cascade trust`, what is published, signed offline, adopted by nodes, and renewed on them.

show --export DIR   ->  sign --from DIR --out NEW (where the offline keys are; no network)  ->  publish NEW
"""

from argparse import ArgumentParser

from cloud.cli.options import Commands, json_option, server_options


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    actions.load("show", "show what is published now, as verified under the trust pin", "cloud.cli.trust.show")
    actions.load("sign", "change the published trust, or renew its end, with the offline keys", "cloud.cli.trust.sign")
    actions.load("publish", "publish what was signed", "cloud.cli.trust.publish")
    actions.load("adoption", "who works by the published trust", "cloud.cli.trust.adoption")
    actions.load(
        "renew-devices", "have every node renew a device certificate that is older", "cloud.cli.trust.renew_devices"
    )


def accept_expired_option(parser: ArgumentParser) -> None:
    """`--accept-expired`, which every command of the group has."""
    parser.add_argument("--accept-expired", action="store_true", help="take published trust whose end has passed")
