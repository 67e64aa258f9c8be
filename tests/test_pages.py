"""Tables in pages show the values of the code: states, dates, settings, exit codes, findings, commands of a target."""

import re
from pathlib import Path
from typing import Any

import msgspec

from cloud.breakwater.checks import checker
from cloud.breakwater.revocation import root_crls
from cloud.fabric.licensing.statements import TERMS
from node.config import Config
from node.exits import Exit
from node.licensing import verdict
from tests import agent_codes
from tests.strangers.limits import LIMITS

ROOT = Path(__file__).parent.parent
AGENT, PKI, CONTRIBUTING = ROOT / "docs/agent.md", ROOT / "docs/pki.md", ROOT / "CONTRIBUTING.md"
TROUBLESHOOTING = ROOT / "docs/troubleshooting.md"
DAY = 24 * 3600


def rows(page: Path, section: str) -> list[list[str]]:
    """The cells of each table row of a section, without backticks, without the header row and its rule."""
    text = page.read_text("utf-8").partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert lines, f"{page} has no table under {section!r}"
    found = [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]
    return [cells for cells in found if not set(cells[0]) <= {"-"}][1:]


def test_the_states_of_the_licence() -> None:
    written = [
        (state, gate.partition(",")[0], int(code)) for state, gate, code, _ in rows(AGENT, "States of the licence")
    ]
    table: Any = verdict._TABLE
    assert written == [(state, "open" if row.gate_open else "closed", int(row.exit)) for state, row in table.items()]


def test_the_dates_of_a_lease() -> None:
    seconds = {"hours": 3600, "day": DAY, "days": DAY}
    written = {
        tier.split()[0]: tuple(int(cell.split()[0]) * seconds[cell.split()[1]] for cell in cells)
        for tier, *cells in rows(AGENT, "Dates of a lease")
    }
    assert written == {tier: msgspec.structs.astuple(terms) for tier, terms in TERMS.items()}


def test_the_settings_of_the_agent() -> None:
    written = {name: default for name, default, _ in rows(AGENT, "Settings")}
    defaults = msgspec.structs.asdict(Config()).items()
    assert written == {name: "none" if value is None else str(value) for name, value in defaults}


def test_the_exit_codes() -> None:
    written = {int(code) for row in rows(AGENT, "Commands and exit codes") for code in row[::2] if code}
    assert written == {int(code) for code in Exit}


def codes(section: str) -> set[str]:
    """The codes in the first column of a section's table. A row can have several codes."""
    return {code for cells in rows(TROUBLESHOOTING, section) for code in cells[0].split(", ")}


def test_the_codes_of_conditions_and_errors() -> None:
    assert codes("Flags") == agent_codes.flags()
    assert codes("The TPM") == agent_codes.tpm_errors()
    assert codes("Refusals of the cloud") == agent_codes.refusals()
    assert agent_codes.conditions() <= codes("Conditions")
    assert agent_codes.link_errors() <= codes("Contact with the cloud")
    written = codes("Conditions") | codes("Contact with the cloud") | codes("The disk") | codes("Commands")
    assert written == agent_codes.conditions() | agent_codes.link_errors() | agent_codes.errors()


def test_the_findings_of_the_checker() -> None:
    written = set()
    for line in PKI.read_text("utf-8").splitlines():
        if re.match(r"\| `[a-z]+\.", line):
            kind = ""
            for name in re.findall(r"`([a-zA-Z_.]+)`", line.split("|")[1]):
                kind = kind if name.startswith(".") else name.partition(".")[0]
                written.add(f"{kind}.{name.rpartition('.')[2]}")
    source = Path(checker.__file__).read_text("utf-8")
    kinds = {name.partition(".")[0] for name in written} - {"lint"}
    found = set(re.findall(rf'"((?:{"|".join(sorted(kinds))})\.[a-z_]+)"', source))
    found |= set(re.findall(r'"(crl\.[a-z_]+)"', Path(root_crls.__file__).read_text("utf-8")))
    assert written - {"lint.RULE"} == found
    assert 'f"lint.{' in source


def test_what_other_programs_cannot_do() -> None:
    written = [cells[:3] for cells in rows(PKI, "Other programs") if len(cells) == 5 and cells[0] != "Program"]
    assert written == [[row.program, ", ".join(row.checks), ", ".join(row.profiles)] for row in LIMITS]


def test_the_commands_of_make_check() -> None:
    written = [command for row in rows(CONTRIBUTING, "What `make check` checks") for command in row[0].split(", ")]
    recipe = (ROOT / "Makefile").read_text("utf-8").partition("\ncheck:")[2].partition("\n\n")[0].splitlines()[1:]
    assert written == [re.sub(r"^\t@\$\(BIN\)/| --no-cache| \$\(SOURCES\)", "", line) for line in recipe]


def test_the_index_of_the_decision_records() -> None:
    folder = ROOT / "docs/adr"
    files = sorted(file.name for file in folder.glob("[0-9]*.md"))
    assert len({name[:4] for name in files}) == len(files)
    assert re.findall(r"^- \[\d{4}\]\((\S+)\)", (folder / "README.md").read_text("utf-8"), re.MULTILINE) == files
