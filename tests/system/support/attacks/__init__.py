"""The attacks of docs/threat-model.md on a real cloud, real agents and software TPMs: one table, and a module per kind.

`table.py` has one row for each attack. The other modules have the steps of the rows. `make drills PART=attacks` takes
every row, and `tests/system/test_attacks.py` one or two of most kinds.
"""
