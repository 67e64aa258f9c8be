"""Command line: the user of a command. Root becomes the agent's user, after it has read what only root can read.

A command reads the files that it names, and then calls `become_agent_user`. The command opens its output file before
that too, so that root can write it where root wants it.
"""

import os
from pathlib import Path

from node.config import Config
from node.disk.files import exists
from node.system.privileges import NotPermitted, agent_user, become, make_directory


def become_agent_user(config: Config, *, creates: bool = False) -> None:
    """Become the user who owns the state directory, for good, if root runs this command and another user owns it.

    The command may need the serial numbers of the board and the passwords of the TPM, so they are read first. `creates`:
    the command makes the state directory if it is missing. A second call does nothing. Raises NotPermitted.
    """
    user = agent_user(config)
    if user is None:
        return
    # Imported here: most machines and most commands need neither, and the TPM's library is slow to load.
    from node.disk import credentials
    from node.hwbind import dmi

    dmi.keep()
    credentials.keep(config.tpm_owner_auth, config.tpm_endorsement_auth)
    if creates:
        make_directory(config.state_dir, user)
    become(user)


def becomes_agent_user(config: Config) -> bool:
    """Whether `become_agent_user` changes the user of this process."""
    return agent_user(config) is not None


def check_permitted(config: Config, *, creates: bool = False) -> None:
    """Check that this user may use the state: root, or the user who owns the state directory. Raises NotPermitted.

    Without a directory only root may make it in a directory of root.
    """
    if os.geteuid() == 0 or os.access(config.state_dir, os.R_OK | os.W_OK | os.X_OK):
        return
    if exists(config.state_dir):
        raise NotPermitted(f"cannot use the state in {config.state_dir}: only root and its owner may")
    if creates and not os.access(_existing(config.state_dir.absolute().parent), os.W_OK | os.X_OK):
        raise NotPermitted(f"cannot make the state directory {config.state_dir}: only root may")


def _existing(directory: Path) -> Path:
    return directory if directory.exists() else _existing(directory.parent)
