"""Command group: `cascade pki`, which manages the certificate authorities on Breakwater's host."""

from argparse import ArgumentParser

from cloud.cli.options import Commands, json_option


def add_options(group: ArgumentParser) -> None:
    actions = Commands(group, "action", json_option)
    actions.load("ceremony", "use the root's key, as a reviewed file describes", "cloud.cli.pki.ceremony")
    actions.load("status", "show authorities, counts of certificates, and CRLs that are due", "cloud.cli.pki.status")
    actions.load("issue", "make a one-time secret for a service's first certificate", "cloud.cli.pki.issue")
    actions.load("revoke", "revoke certificates of services for good", "cloud.cli.pki.revoke")
    actions.load("renew", "replace the key and certificate of a service now", "cloud.cli.pki.renew")
    actions.load("rotate", "replace an authority, step by step", "cloud.cli.pki.rotate")
    actions.load("crl", "show, publish or write the CRLs", "cloud.cli.pki.crl")
    actions.load("check", "check all certificates, chains, records and CRLs", "cloud.cli.pki.check")
    actions.load("export", "write authorities, CRLs and an inventory to files", "cloud.cli.pki.export")
