"""Import contract for import-linter: a package imports only the listed modules.

A list of forbidden modules is incomplete after each new dependency. A list of allowed modules refuses the new one.
"""

import sys
from typing import Any

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class OnlyContract(Contract):
    """`source_modules` and the modules below them may import each other, the standard library and `allowed_modules`.

    `forbidden_standard` names modules of the standard library that are refused all the same.
    """

    type_name = "only"

    source_modules: Any = fields.ListField(subfield=fields.ModuleField())
    allowed_modules: Any = fields.ListField(subfield=fields.StringField())
    forbidden_standard: Any = fields.ListField(subfield=fields.StringField(), required=False)

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        """Compare the top-level name of every direct import with the list."""
        del verbose
        sources = {module.name for module in self.source_modules}
        refused_standard = set(self.forbidden_standard or ())
        allowed = sources | set(self.allowed_modules) | (sys.stdlib_module_names - refused_standard)
        found = [
            (importer, imported)
            for source in sources
            for importer in (source, *graph.find_descendants(source))
            for imported in graph.find_modules_directly_imported_by(importer)
            if imported.partition(".")[0] not in allowed
        ]
        return ContractCheck(kept=not found, metadata={"found": sorted(found)})

    def render_broken_contract(self, check: ContractCheck) -> None:
        """List every import that is not allowed."""
        for importer, imported in check.metadata["found"]:
            output.print_error(f"{importer} is not allowed to import {imported}")
