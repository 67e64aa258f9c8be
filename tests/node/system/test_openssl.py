"""A hostile OpenSSL configuration in the environment changes nothing for `cascadia`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from node.system.openssl import VARIABLES, forget_settings

WEAK = """openssl_conf = start
[start]
ssl_conf = rules
[rules]
system_default = weak
[weak]
MaxProtocol = TLSv1.2
CipherString = AES128-SHA@SECLEVEL=0
"""
"""A configuration that weakens every TLS context that a process makes."""
USE = "import ssl; print(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).security_level)"
AFTER_THE_COMMAND = f"""
from node.cli.main import main
try:
    main(["license", "show", "--json"])
except SystemExit:
    pass
{USE}
"""


def python(code: str, configuration: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **dict.fromkeys(VARIABLES[:1], str(configuration))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_a_hostile_configuration_is_not_read(tmp_path: Path) -> None:
    configuration = tmp_path / "openssl.cnf"
    configuration.write_text(WEAK)
    unprotected = python(USE, configuration)
    assert unprotected.stdout == "0\n", "the configuration must have an effect, or this test shows nothing"
    protected = python(AFTER_THE_COMMAND, configuration)
    assert protected.returncode == 0, protected.stderr
    document, level = protected.stdout.splitlines()
    assert json.loads(document)
    assert int(level) >= 1


def test_no_variable_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.setenv(name, "/tmp/hostile")
    forget_settings()
    assert not set(VARIABLES) & set(os.environ)


def test_the_command_line_uses_no_openssl_before_it_forgets_them() -> None:
    code = "import sys, node.cli.main; print({'_ssl', '_hashlib', 'cryptography'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
