"""A settings file that passes every gate, and changes of it."""

from pathlib import Path

from cloud.process.settings import ServiceSettings, load_settings

GOOD = """
trust_domain = "cascade.test"
key_files = ["ca.key"]

[[listeners]]
port = 8440

[[listeners]]
port = 8442
tls = false
purpose = "tuf"
"""
TOP = 'trust_domain = "cascade.test"\n'
LAST = 'purpose = "tuf"\n'
SERVER = '\n[database]\nengine = "postgresql"\n'


def load(folder: Path, *changes: tuple[str, str]) -> ServiceSettings:
    text = GOOD
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    (folder / "settings.toml").write_text(text)
    return load_settings(folder / "settings.toml", ServiceSettings)
