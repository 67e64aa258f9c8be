"""Pure functions: the form of the cloud's URLs, which a file or a signed document names.

Only URLs with a plain form are accepted: no user, no query, no fragment, no escapes in the host. HTTP libraries differ in
what they do with other URLs, and some raise undocumented errors.
"""

import re
from typing import Literal

URL_CHARACTERS_MAX = 2048
"""A bound that proxies and libraries share."""
HOST_CHARACTERS_MAX = 253
"""RFC 1035 section 2.3.4."""

_LABEL = "[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_HOST = rf"(?P<host>{_LABEL}(?:\.{_LABEL})*\.?|\[[0-9A-Fa-f:.]{{2,45}}(?:%25[A-Za-z0-9._-]{{1,15}})?\])"
_PATH = r"(?P<path>(?:/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*)"
_URL = re.compile(rf"(?P<scheme>https?)://{_HOST}(?::(?P<port>[0-9]{{1,5}}))?{_PATH}")


class UrlError(ValueError):
    """The text is not a URL of the expected form."""


def check_base_url(text: str, scheme: Literal["http", "https"], *, with_path: bool) -> None:
    """Check a base URL (RFC 3986): scheme, host, an optional port and, if `with_path`, an optional path.

    Raises UrlError. Its text names the fault and not the URL.
    """
    if len(text) > URL_CHARACTERS_MAX:
        raise UrlError(f"the URL is longer than {URL_CHARACTERS_MAX} characters")
    if not text.startswith(f"{scheme}://"):
        raise UrlError(f"the URL must begin with {scheme}://")
    match = _URL.fullmatch(text)
    if match is None or len(match["host"]) > HOST_CHARACTERS_MAX:
        raise UrlError(f"the URL has not the form {scheme}://host:port{'/path' if with_path else ''}")
    if match["port"] and not 0 < int(match["port"]) <= 65535:
        raise UrlError("the URL's port is not between 1 and 65535")
    if match["path"] and not with_path:
        raise UrlError("the URL has a path, and none is allowed")
