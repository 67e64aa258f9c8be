"""Errors of backups.

BackupRefused        a backup or a restore was refused; nothing was changed. `code` names the reason
  BackupDamaged      the file is truncated or changed, or is no backup
"""


class BackupRefused(Exception):
    """A backup or a restore was refused. `code` is stable and for programs, `next_step` is a sentence."""

    def __init__(self, code: str, text: str, next_step: str) -> None:
        super().__init__(text)
        self.code = code
        self.next_step = next_step


class BackupDamaged(BackupRefused):
    """The content of a backup is not what was written. `detail` says what was found."""

    def __init__(self, path: object, detail: str) -> None:
        super().__init__(
            "backup_damaged",
            f"cannot use {path}: the backup is truncated or damaged: {detail}",
            "Use another copy of this backup, or an older backup.",
        )
