"""Adapter: a command that root types on the services' host runs as the owner of the installation.

The services run as their own user. A file that root wrote below the installation's directory would be closed to them.
So a command with an installation's directory gives up root for good before it reads or writes anything there. Files
that its other options name must be open to that user.
"""

import os
import pwd
from collections.abc import Iterator
from pathlib import Path

INSTALLATION = Path("/var/lib/cascade/installation")
"""The directory of the installation on a host where the package is installed. The package makes the folder above it,
for the user `cascade`."""
UMASK = 0o077
LINKS_MAX = 40
"""Links in one path that Linux follows (path_resolution(7))."""


def owner_of(directory: Path) -> int | None:
    """Return the uid of the first user besides root who owns a part of the path: a folder above, a link, the directory.

    This user can put another folder in the place of the directory, also one of root. Parts that do not exist have no
    owner. Returns 0 if root owns every part; None if a part cannot be read.
    """
    for part in _parts(directory.absolute(), LINKS_MAX):
        try:
            uid = part.lstat().st_uid
        except FileNotFoundError:
            continue
        except OSError:
            return None
        if uid:
            return uid
    return 0


def _parts(path: Path, links: int) -> Iterator[Path]:
    """Every folder and link on the way to an absolute path, from the top. Links are followed `links` deep."""
    for part in (*reversed(path.parents), path):
        yield part
        if links and part.is_symlink():
            yield from _parts(part.parent / part.readlink(), links - 1)


def become_owner(directory: Path) -> str | None:
    """If root runs this process, and another user owns `directory` (`owner_of`), become this user. Return its name.

    There is no way back to root. Returns None if nothing was changed: also if the owner has no account on this machine,
    as in a container, because no service runs as that user. Raises OSError.
    """
    uid = owner_of(directory)
    if os.geteuid() != 0 or not uid:
        return None
    try:
        account = pwd.getpwuid(uid)
    except KeyError:
        return None
    os.setgroups(os.getgrouplist(account.pw_name, account.pw_gid))
    os.setgid(account.pw_gid)
    os.setuid(uid)
    os.umask(UMASK)
    os.environ["HOME"] = account.pw_dir
    return account.pw_name


def operator_settings() -> dict[str, str]:
    """Return the operator's variables of the packaged installation on this host; empty if they cannot be read.

    The file is parsed. A shell of root must not run it, because another user owns it.
    """
    try:
        text = (INSTALLATION / "operator" / "env").read_text()
    except (OSError, UnicodeDecodeError):
        return {}
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line and not line.startswith("#"))
