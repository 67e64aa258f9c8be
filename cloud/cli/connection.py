"""Adapter: calls Fabric as an operator.

The trust pin verifies the TUF repository. The repository gives the X.509 bundle and the services' URLs. The bundle
verifies Fabric's certificate. The system's CAs are not used. The token is sent only after the server has proven that it
is Fabric.
"""

import asyncio
import os
from argparse import Namespace
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlencode

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from cloud.cli import published_trust
from cloud.cli.errors import (
    EXIT_REFUSED,
    EXIT_TRY_AGAIN,
    EXIT_UNREACHABLE,
    EXIT_USAGE,
    EXIT_VERIFICATION,
    CliError,
    TrustError,
    TrustUnreachable,
)
from cloud.cli.owner import INSTALLATION, operator_settings, owner_of
from cloud.clock import utc_now
from cloud.crypto.keyfile import KeyFileError, check_private
from cloud.mtls.client import (
    AnswerUnusable,
    CloudClient,
    ProblemAnswer,
    ServerCheck,
    ServerRefused,
    Unreachable,
    client_context,
    expected_service,
)
from cloud.mtls.peer import PeerTrust
from protocol.codes import SecretFormatError, parse_secret
from protocol.messages.activation import PinError, TrustPin, parse_pin
from protocol.problems import KINDS
from protocol.signed.trust import ServiceUrls, X509Bundle

T = TypeVar("T")

TOKEN_FILE_BYTES_MAX = 1024
"""A token has less than 100 characters. A longer file was named by mistake."""
PAGE_ITEMS = 200
"""Items that one request for a list asks for."""
LIST_ITEMS_MAX = 10_000
"""Items of a list that a command prints at most, unless the command has a limit of its own."""


class Server:
    """The installation that the options and the environment name. Raises CliError if a value is missing or invalid."""

    def __init__(self, args: Namespace) -> None:
        self.url: str = setting(args.url, "CASCADE_URL", "--url").rstrip("/")
        self.pin = trust_pin(args)
        self._judge_dates = not getattr(args, "accept_expired", False)
        self._token_file = Path(setting(args.token_file, "CASCADE_TOKEN_FILE", "--token-file"))

    def call(self, method: str, path: str, kind: type[T], body: Any = None) -> T:
        """Make one call as the operator and return the answer's body as a `kind`. Raises CliError."""
        return asyncio.run(self._call(method, path, kind, body))

    def put(self, path: str, kind: type[T], body: Any, *, read: str) -> T:
        """Read the object at the path `read`, change it by a PUT, and return the object as a `kind`.

        Fabric carries the change out only on the state that was read. Raises CliError, for example with the code
        `changed_since_read`.
        """
        return asyncio.run(self._call("PUT", path, kind, body, read))

    def pages(self, path: str, kind: Any, limit: int = LIST_ITEMS_MAX, **query: str) -> tuple[Any, ...]:
        """Return the items of a list, at most `limit` of them.

        `kind` is the type of one page. Values of `query` that are empty are not sent. Raises CliError.
        """
        items: list[Any] = []
        cursor = ""
        while len(items) < limit:
            wanted = {name: value for name, value in {**query, "cursor": cursor}.items() if value}
            wanted["limit"] = str(min(PAGE_ITEMS, limit - len(items)))
            page = self.call("GET", f"{path}?{urlencode(wanted)}", kind)
            items.extend(page.items)
            cursor = page.next_cursor
            if not cursor:
                break
        return tuple(items)

    async def _call(self, method: str, path: str, kind: type[T], body: Any, read: str = "") -> T:
        trust = self.trust(published_trust.FRESH_FOR)
        try:
            try:
                return await self._request(trust, method, path, kind, body, read)
            except ServerRefused:
                # New trust may have been published since the copy was made. The refused server has received nothing.
                fresh = self.trust()
                if fresh == trust:
                    raise
                return await self._request(fresh, method, path, kind, body, read)
        except ProblemAnswer as error:
            raise _refused(error) from error
        except ServerRefused as error:
            raise CliError(
                EXIT_VERIFICATION,
                "server_unproven",
                str(error),
                "Check the clock of this machine, and look for a proxy between this machine and Fabric.",
            ) from error
        except (Unreachable, AnswerUnusable) as error:
            raise _unreachable(str(error)) from error

    def trust(self, fresh_for: timedelta = timedelta(0)) -> tuple[X509Bundle, ServiceUrls]:
        """Return the published trust, verified under the pin.

        A copy younger than `fresh_for` is used without a request. Raises CliError.
        """
        with trust_errors():
            return published_trust.fetch(
                self.url, self.pin, cache_directory(self.pin), fresh_for=fresh_for, judge_dates=self._judge_dates
            )

    async def _request(
        self, trust: tuple[X509Bundle, ServiceUrls], method: str, path: str, kind: type[T], body: Any, read: str
    ) -> T:
        bundle, urls = trust
        async with CloudClient(urls.fabric, _context(bundle), token=_read_token(self._token_file)) as client:
            headers = {}
            if read:
                found = await client.call("GET", read)
                found.into(msgspec.Raw)
                headers["If-Match"] = found.headers.get("etag", "")
            return (await client.call(method, path, body, headers=headers)).into(kind)


@contextmanager
def trust_errors() -> Iterator[None]:
    """Turn a TrustError of the block into a CliError with a next step."""
    try:
        yield
    except TrustUnreachable as error:
        raise _unreachable(str(error)) from error
    except TrustError as error:
        raise CliError(
            EXIT_VERIFICATION,
            "trust_not_verified",
            str(error),
            "Check the clock of this machine. Compare the trust pin with the pin that `cascade init` printed. If the "
            "published trust has expired, sign it again with `cascade trust sign --accept-expired`.",
        ) from error


def cache_directory(pin: TrustPin) -> Path:
    """Return the folder of the verified copy. Each pin has its own.

    The copy stays after the command, so that a later command refuses older trust.
    """
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "cascade" / pin.sha256[:16]


def trust_pin(args: Namespace) -> TrustPin:
    """Return the trust pin of `--trust` or CASCADE_TRUST. Raises CliError."""
    try:
        return parse_pin(setting(args.trust, "CASCADE_TRUST", "--trust"))
    except PinError as error:
        raise CliError(EXIT_USAGE, "trust_pin_invalid", f"cannot use the trust pin: {error}") from error


def setting(option: object, variable: str, name: str) -> str:
    """Return the value of an option, of its environment variable, or of the packaged installation on this host.

    Raises CliError (`server_not_named`) when all are missing.
    """
    value = str(option) if option else os.environ.get(variable) or operator_settings().get(variable, "")
    if not value:
        raise CliError(
            EXIT_USAGE,
            "server_not_named",
            f"cannot find the server: both {name} and {variable} are missing",
            "Load the installation's values into the environment: `set -a; . DIR/operator/env; set +a`.",
        )
    return value


def _read_token(path: Path) -> str:
    try:
        check_private(path, owner_of(INSTALLATION))
        with path.open("rb") as file:
            return parse_secret("cot", file.read(TOKEN_FILE_BYTES_MAX).decode("ascii"))
    except (OSError, UnicodeDecodeError, KeyFileError, SecretFormatError) as error:
        raise CliError(
            EXIT_USAGE,
            "token_unusable",
            f"cannot use the token in {path}: {error}",
            "Name a token file that only you can read (mode 0600). With another operator's token, `cascade token "
            "create` makes a new one.",
        ) from error


def _context(bundle: X509Bundle) -> Any:
    def load(ders: tuple[bytes, ...]) -> tuple[x509.Certificate, ...]:
        return tuple(x509.load_der_x509_certificate(der) for der in ders)

    trust = PeerTrust(
        trust_domain=bundle.trust_domain,
        node_issuers=load(bundle.node_issuers),
        service_issuers=load(bundle.service_issuers),
    )
    ca_pem = b"".join(certificate.public_bytes(Encoding.PEM) for certificate in load(bundle.roots))
    check = ServerCheck(
        spiffe=expected_service(bundle.trust_domain, "fabric"),
        trust=trust,
        now=utc_now,
        # A command lasts about a second, so it keeps no set of revoked services. Services do (cloud/mtls/revoked.py).
        revoked=lambda _: False,
    )
    return client_context(ca_pem, check)


def _unreachable(text: str) -> CliError:
    return CliError(
        EXIT_UNREACHABLE, "unreachable", text, "Check that the cloud is running and that CASCADE_URL is right."
    )


def _refused(error: ProblemAnswer) -> CliError:
    problem = error.problem
    kind = KINDS.get(problem.code)
    text = f"cannot run the command: Fabric refused it: {problem.title}" + (
        f" ({problem.detail})" if problem.detail else ""
    )
    exit_code = EXIT_REFUSED if kind is None or kind.conclusive else EXIT_TRY_AGAIN
    return CliError(exit_code, problem.code, text, problem.next)
