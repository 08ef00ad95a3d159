"""An import-linter contract that its own types cannot express: imports nothing but the standard library."""

import sys

from grimp import ImportGraph
from importlinter import Contract, ContractCheck, fields, output


class StdlibOnlyContract(Contract):
    """The named packages import themselves and the standard library, less the modules listed as impure.

    A package that does not exist (yet) keeps the contract.
    """

    type_name = "stdlib_only"

    packages = fields.ListField(subfield=fields.StringField())
    impure = fields.ListField(subfield=fields.StringField(), required=False, default=[])

    def check(self, graph: ImportGraph, verbose: bool) -> ContractCheck:
        impure = set(self.impure)  # type: ignore[call-overload]
        broken = [
            f"{importer} -> {imported}"
            for package in self.packages  # type: ignore[attr-defined]
            for importer, imported in sorted(_imports_of(graph, package))
            if not _allowed(package, imported, impure)
        ]
        return ContractCheck(kept=not broken, metadata={"broken": broken})

    def render_broken_contract(self, check: ContractCheck) -> None:
        for line in check.metadata["broken"]:
            output.print_error(f"- {line}", bold=False)
        output.new_line()


def _imports_of(graph: ImportGraph, package: str) -> set[tuple[str, str]]:
    if package not in graph.modules:
        return set()
    modules = {package} | graph.find_descendants(package)
    return {(module, to) for module in modules for to in graph.find_modules_directly_imported_by(module)}


def _allowed(package: str, imported: str, impure: set[str]) -> bool:
    if imported == package or imported.startswith(f"{package}."):
        return True
    top = imported.partition(".")[0]
    return top in sys.stdlib_module_names and top not in impure
