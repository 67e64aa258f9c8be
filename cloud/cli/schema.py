"""Command group: `cascade schema`, which prints the API documents without a server."""

from argparse import ArgumentParser, Namespace

from cloud.breakwater.routes.documents import documents as breakwater_documents
from cloud.cli.options import json_option
from cloud.cli.show import say
from cloud.fabric.routes.documents import documents as fabric_documents
from cloud.http.openapi import ApiDocument


def add_options(parser: ArgumentParser) -> None:
    """The options of `cascade schema`."""
    names = sorted(_documents())
    parser.description = "Prints an OpenAPI 3.1 document, made from the installed code. It asks no server."
    json_option(parser)
    parser.add_argument("document", choices=names, metavar="DOCUMENT", help=", ".join(names))
    parser.set_defaults(run=_print)


def _documents() -> dict[str, ApiDocument]:
    return {**fabric_documents(), **breakwater_documents()}


def _print(args: Namespace) -> None:
    say(_documents()[args.document].encoded.decode().removesuffix("\n"))
