"""Drills: checks that are long, loud, or need root or whole machines. `make drills PART=name` runs one by hand.

Each module of this folder but `frame` is a part. `tests.drills.frame.Part` says what a part has. `make test` never runs
a drill: it runs one row of each kind, or a small size of the same check.
"""
