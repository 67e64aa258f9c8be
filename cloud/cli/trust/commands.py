"""Command group: `cascade trust`, which shows, signs and publishes trust, counts its adoption and orders renewals.

A change takes three commands. `sign` runs on the machine with the offline keys and needs no network:

    show --export DIR   ->   sign --from DIR --out NEW   ->   publish NEW
"""

from argparse import ArgumentParser

from cloud.cli.options import Commands, json_option, server_options


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option, server_options)
    actions.load("show", "show the published trust, verified under the trust pin", "cloud.cli.trust.show")
    actions.load("sign", "change or extend the published trust with the offline keys", "cloud.cli.trust.sign")
    actions.load("publish", "publish the trust that `sign` wrote", "cloud.cli.trust.publish")
    actions.load("adoption", "count the nodes and services that use the published trust", "cloud.cli.trust.adoption")
    actions.load(
        "renew-devices", "order every node to renew an older device certificate", "cloud.cli.trust.renew_devices"
    )


def accept_expired_option(parser: ArgumentParser) -> None:
    """Add `--accept-expired`, which every command of the group has."""
    parser.add_argument(
        "--accept-expired",
        action="store_true",
        help="also use published trust that has expired; its signatures and versions are checked as always",
    )
