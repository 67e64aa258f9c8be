"""Command: `cascade recovery policy`, which shows and sets what a tenant lets happen without a person."""

from argparse import Namespace
from typing import Any

from cloud.cli.arguments import id_argument
from cloud.cli.connection import Server
from cloud.cli.options import Commands, changing_path, dry_run_option
from cloud.cli.show import emit, fields
from cloud.fabric.bodies.recovery import RecoveryPolicy
from cloud.fabric.bodies.recovery_codes import SetRecoveryPolicy

OPTIONS = {
    "grace_quota": "grace leases that the tenant's nodes get without a person in one period (default of a tenant: 0)",
    "period_days": "length of the period, in days (90)",
    "grace_hours": "longest life of a grace lease, in hours (72)",
    "silence_minutes": "minutes in which the node must make no contact before another machine gets a grace lease (120)",
    "repair_quota": "automatic repairs of one node, restored from a backup, in one period (1)",
    "code_delay_hours": "hours until a recovery code that was issued again is accepted (24)",
    "case_days": "days in which a case must be decided (14)",
}
"""The values of the policy: name -> help. The option has hyphens."""


def add_options(actions: Commands) -> None:
    """Add the command to the group."""
    setting = actions.add(
        "policy",
        "show or set what a tenant lets happen in a recovery without a person",
        "Without options, shows the policy. Values without an option stay as they are.",
        run=policy,
    )
    setting.add_argument("tenant", metavar="TENANT", help="id of the tenant")
    dry_run_option(setting)
    for name, text in OPTIONS.items():
        setting.add_argument(f"--{name.replace('_', '-')}", type=int, default=None, metavar="N", help=text)


def policy(args: Namespace) -> None:
    """Set the given values of the policy, and print the policy. Raises CliError."""
    path = f"/v1/tenants/{id_argument('ten', args.tenant)}/recovery-policy"
    given: dict[str, Any] = {name: getattr(args, name) for name in OPTIONS if getattr(args, name) is not None}
    server = Server(args)
    if given:
        found = server.put(changing_path(path, args), RecoveryPolicy, SetRecoveryPolicy(**given), read=path)
    else:
        found = server.call("GET", path, RecoveryPolicy)
    emit(found, args.json, fields)
