"""The options of `cascade`, as one parser whose help teaches: every command says what it changes and what comes next."""

import argparse
from pathlib import Path

from cloud.cli.pki.options import add_pki_commands

VERSION = "0.1.0"

EPILOG = """\
The server is found by three things, from options or the environment; `cascade init` writes them to DIR/operator/env:
  CASCADE_URL         URL of the installation's repository (--url)
  CASCADE_TRUST       trust pin, VERSION:SHA256 (--trust)
  CASCADE_TOKEN_FILE  file with the operator's token (--token-file)

exit codes: 0 done, 2 usage, 65 verification failed, 69 unreachable, 70 internal, 75 try again, 77 refused.
"""


class _Commands:
    """Sub-commands that share the common options."""

    def __init__(
        self, commands: "argparse._SubParsersAction[argparse.ArgumentParser]", *common: argparse.ArgumentParser
    ):
        self._commands = commands
        self._common = list(common)

    def add(self, name: str, summary: str, text: str = "") -> argparse.ArgumentParser:
        return self._commands.add_parser(name, help=summary, description=text or summary, parents=self._common)


def _group(commands: _Commands, name: str, summary: str, common: argparse.ArgumentParser) -> _Commands:
    parser = commands.add(name, summary)
    return _Commands(parser.add_subparsers(dest="action", required=True, metavar="ACTION"), common)


def _server_commands(commands: _Commands) -> None:
    init = commands.add(
        "init",
        "make a new installation",
        "Makes keys, certificates, databases and the first operator token below DIR, then names what to back up and "
        "which keys to take offline. DIR must not exist, or be empty.",
    )
    init.add_argument("--dir", type=Path, required=True, metavar="DIR", help="directory of the installation")
    init.add_argument("--host", default="127.0.0.1", help="name or address that nodes reach it by (default 127.0.0.1)")
    init.add_argument("--bind", default="", help="address to listen on (default: the host, if it is an address)")
    init.add_argument("--port-base", type=int, default=8440, help="first of four ports (default 8440)")
    init.add_argument("--trust-domain", default="cascade.internal", help="SPIFFE trust domain; never changes")
    init.add_argument(
        "--breakwater-database",
        metavar="ADDRESS",
        help="postgresql://USER@HOST:PORT/NAME, or ...@/NAME?host=DIRECTORY for a socket; tls_ca_file=FILE for another "
        "machine's (default: a file below DIR)",
    )
    init.add_argument("--fabric-database", metavar="ADDRESS", help="the same for Fabric, which has one of its own")
    init.add_argument(
        "--database-password-file", type=Path, metavar="FILE", help="file with the databases' password; it stays there"
    )
    up = commands.add("up", "run every service in one process", "Runs until SIGTERM or SIGINT.")
    up.add_argument("--dir", type=Path, required=True, metavar="DIR", help="directory of the installation")
    serve = commands.add("serve", "run one service", "Runs one service until SIGTERM or SIGINT.")
    serve.add_argument("service", choices=["fabric", "breakwater"], metavar="SERVICE", help="fabric or breakwater")
    serve.add_argument("--dir", type=Path, required=True, metavar="DIR", help="directory of the installation")


def _pki_commands(commands: _Commands, output: argparse.ArgumentParser) -> None:
    pki = _group(commands, "pki", "the certificate authorities, on the issuer's own host", output)
    ceremony = pki.add(
        "ceremony",
        "use the root's key as one reviewed file says",
        "Makes a root, an issuing CA, a cross-certificate or the root's revocation list. Everything is checked before "
        "anything is written, and no file is ever replaced. Needs no network. Try --dry-run first: it needs no root key.",
    )
    ceremony.add_argument("file", type=Path, metavar="FILE", help="TOML file that describes the ceremony")
    ceremony.add_argument("--dry-run", action="store_true", help="do everything but write, with a scratch key")
    add_pki_commands(pki.add)


def _tenant_commands(commands: _Commands, common: argparse.ArgumentParser) -> None:
    tenant = _group(commands, "tenant", "tenants and the hardware they trust", common)
    create = tenant.add("create", "make a tenant", "A tenant admits only `attested` hardware until told otherwise.")
    create.add_argument("name", metavar="NAME")
    tenant.add("list", "list tenants")
    tenant.add("show", "show a tenant").add_argument("tenant", metavar="TENANT", help="id")
    trust = tenant.add(
        "trust",
        "show or extend what a tenant trusts",
        "Without an option: shows it. A node is `attested` when its EK certificate chains to a trusted root, or its "
        "EK is allowed by name.",
    )
    trust.add_argument("tenant", metavar="TENANT", help="id")
    trust.add_argument("--ek-root", type=Path, metavar="PEM", help="trust a TPM maker's root (and its intermediates)")
    trust.add_argument(
        "--ek-type", choices=["rsa2048", "ecc_p256"], default="rsa2048", help="EK that identifies a chip"
    )
    trust.add_argument("--allow-ek", metavar="NAME", help="allow one EK by its TPM name (hex)")
    trust.add_argument("--note", default="", help="why this EK is allowed")
    trust.add_argument("--tiers", metavar="TIERS", help="admitted tiers, comma separated: attested,tpm")


def _code_commands(commands: _Commands, common: argparse.ArgumentParser) -> None:
    code = _group(commands, "code", "activation codes", common)
    create = code.add(
        "create",
        "make an activation code and its file",
        "Writes the activation file (mode 0600) that `cascadia activate FILE` takes. The code is a secret; it is "
        "stored here as a hash only.",
    )
    create.add_argument("tenant", metavar="TENANT", help="id")
    create.add_argument("--out", type=Path, required=True, metavar="FILE", help="activation file to write")
    create.add_argument("--profile", default="default", help="name of the profile (default: default)")
    create.add_argument("--entitlement", action="append", default=[], metavar="NAME", help="may be given repeatedly")
    create.add_argument("--seats", type=int, default=1, help="machines that may hold a seat (default 1)")
    create.add_argument("--days", type=float, default=30.0, help="how long the code is open (default 30)")
    create.add_argument("--readmit", metavar="NODE", help="readmit this revoked node, and no other machine")
    create.add_argument(
        "--lease-seconds",
        metavar="R,E,G,T",
        help="refresh after, expires, grace, terminates; seconds from issue (default: by tier)",
    )
    code.add("list", "list a tenant's codes").add_argument("tenant", metavar="TENANT", help="id")
    code.add("revoke", "close a code for good").add_argument("code", metavar="CODE", help="id, not the secret")


def _node_commands(commands: _Commands, common: argparse.ArgumentParser) -> None:
    node = _group(commands, "node", "nodes and their standing", common)
    node.add("list", "list nodes").add_argument("--tenant", default="", metavar="TENANT", help="only this tenant's")
    node.add("show", "show a node and its generations").add_argument("node", metavar="NODE", help="id")
    changes = {
        "suspend": "stop the workloads until resumed; nothing is deleted",
        "resume": "end a suspension: a new lease",
        "revoke": "end this machine's licence for good; only a code made with --readmit brings it back",
        "release": "revoke, and free the seat at once",
    }
    for name, summary in changes.items():
        change = node.add(name, summary)
        change.add_argument("node", metavar="NODE", help="id")
        change.add_argument("--reason", default="", help="kept in the audit; a suspension's goes to the node")


def _trust_commands(commands: _Commands, common: argparse.ArgumentParser) -> None:
    trust = _group(
        commands, "trust", "the published trust: roots, issuers, signing keys, and who works by them", common
    )
    show = trust.add("show", "show what is published now, as verified under the trust pin")
    show.add_argument("--export", type=Path, metavar="DIR", help="also write it as files, to be signed again offline")
    _sign_options(
        trust.add(
            "sign",
            "change the published trust, or renew its end, with the offline keys",
            "Shows what changes, checks the whole as Fabric will, and writes files for `cascade trust publish`. With "
            "--from DIR it needs no network. Without a change it only signs again, which renews the end.",
        )
    )
    publish = trust.add(
        "publish",
        "publish what was signed",
        "A root or issuer that somebody still works by is not dropped: see `cascade trust adoption`.",
    )
    publish.add_argument("folder", type=Path, metavar="DIR", help="what `cascade trust sign --out` wrote")
    publish.add_argument("--override", action="store_true", help="drop it all the same; whoever works by it is cut off")
    publish.add_argument("--reason", default="", help="kept in the audit; an override needs one")
    adoption = trust.add("adoption", "who works by the published trust")
    adoption.add_argument("--missing", action="store_true", help="name the nodes that do not")
    adoption.add_argument("--issuer", default="", metavar="KEYID", help="name the nodes of this issuer; none: unknown")
    adoption.add_argument("--limit", type=int, default=1000, help="how many at the most (default 1000)")
    renew = trust.add(
        "renew-devices",
        "have every node renew a device certificate that is older",
        "From that time on every lease that is signed carries the order; nodes are woken one after the other.",
    )
    renew.add_argument("--after", required=True, metavar="TIME", help="RFC 3339, or now")
    renew.add_argument("--reason", default="", help="kept in the audit")
    renew.add_argument("--spread", type=int, metavar="SECONDS", help="wake them over this time (default: 50 a second)")
    for command in (show, publish, adoption, renew):
        _accept_expired(command)


def _accept_expired(command: argparse.ArgumentParser) -> None:
    command.add_argument("--accept-expired", action="store_true", help="take published trust whose end has passed")


def _sign_options(sign: argparse.ArgumentParser) -> None:
    sign.add_argument("--from", dest="source", required=True, metavar="DIR|URL", help="of `show --export`, or its URL")
    sign.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write; must be new or empty")
    sign.add_argument("--passphrase-file", type=Path, required=True, metavar="FILE", help="of the offline keys")
    sign.add_argument("--key", type=Path, metavar="FILE", help="tuf-targets.key.pem: sign the targets")
    sign.add_argument("--days", type=float, metavar="DAYS", help="how long the targets count (default 365)")
    sign.add_argument("--add-root", type=Path, action="append", default=[], metavar="PEM", help="may be repeated")
    sign.add_argument("--drop-root", action="append", default=[], metavar="KEYID", help="may be repeated")
    sign.add_argument("--add-issuer", action="append", default=[], metavar="CLASS:PEM", help="class nodes or services")
    sign.add_argument("--drop-issuer", action="append", default=[], metavar="KEYID", help="may be repeated")
    sign.add_argument("--fabric-url", default="", metavar="URL", help="another URL of Fabric")
    sign.add_argument("--breakwater-url", default="", metavar="URL", help="another URL of Breakwater")
    sign.add_argument("--root-key", type=Path, metavar="FILE", help="tuf-root.key.pem: sign the next TUF root")
    sign.add_argument("--root-days", type=float, metavar="DAYS", help="how long the root counts (default 3652)")
    sign.add_argument("--new-targets-key", type=Path, metavar="FILE", help="replace the targets key; made if missing")
    sign.add_argument("--new-root-key", type=Path, metavar="FILE", help="replace the root key; made if missing")
    sign.add_argument("--dry-run", action="store_true", help="show what changes; no key is read, nothing is written")
    _accept_expired(sign)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    root = argparse.ArgumentParser(
        prog="cascade",
        description="Run a Cascade cloud and operate it: tenants, activation codes, nodes, tokens, audit.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    root.add_argument("--version", action="version", version=f"cascade {VERSION}")
    output = argparse.ArgumentParser(add_help=False)
    output.add_argument("--json", action="store_true", help="print one JSON document")
    common = argparse.ArgumentParser(add_help=False, parents=[output])
    common.add_argument("--url", metavar="URL", help="repository of the installation (CASCADE_URL)")
    common.add_argument("--trust", metavar="PIN", help="trust pin (CASCADE_TRUST)")
    common.add_argument("--token-file", type=Path, metavar="FILE", help="operator's token (CASCADE_TOKEN_FILE)")
    top = root.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands = _Commands(top, output)
    _server_commands(commands)
    _pki_commands(_Commands(top), output)
    _tenant_commands(_Commands(top), common)
    _code_commands(_Commands(top), common)
    _node_commands(_Commands(top), common)
    _trust_commands(_Commands(top), common)
    token = _group(_Commands(top), "token", "operators' tokens", common)
    create = token.add("create", "make a token and write it to a file (mode 0600)")
    create.add_argument("name", metavar="NAME", help="whose or what for")
    create.add_argument("--out", type=Path, required=True, metavar="FILE", help="file to write")
    create.add_argument("--days", type=float, default=0.0, help="how long it counts (default: until revoked)")
    token.add("list", "list tokens")
    token.add("revoke", "close a token at once").add_argument("token", metavar="TOKEN", help="id, not the secret")
    audit = _group(_Commands(top), "audit", "what was done, by whom", common)
    listing = audit.add("list", "list audit entries, newest first")
    listing.add_argument("--tenant", default="", metavar="TENANT", help="only this tenant's")
    listing.add_argument("--object", default="", metavar="ID", help="only of this object")
    listing.add_argument("--limit", type=int, default=50, help="how many at the most (default 50)")
    return root
