"""Command group: `cascade pki`, the certificate authorities, on the issuer's own host."""

from argparse import ArgumentParser

from cloud.cli.options import Commands, json_option


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option)
    actions.load("ceremony", "use the root's key as one reviewed file says", "cloud.cli.pki.ceremony")
    actions.load("status", "authorities, certificates, CRLs: what there is and what is due", "cloud.cli.pki.status")
    actions.load("issue", "make a one-time secret for a service's first certificate", "cloud.cli.pki.issue")
    actions.load("revoke", "revoke a service's certificates, for good", "cloud.cli.pki.revoke")
    actions.load("renew", "give a service of this installation a new certificate now", "cloud.cli.pki.renew")
    actions.load("rotate", "replace an authority, step by step", "cloud.cli.pki.rotate")
    actions.load("crl", "the CRLs as published", "cloud.cli.pki.crl")
    actions.load("check", "walk everything issued: lint, chains, records, CRLs", "cloud.cli.pki.check")
    actions.load("export", "write authorities, CRLs and an inventory as files", "cloud.cli.pki.export")
