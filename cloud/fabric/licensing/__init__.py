"""Statements and standing: the content of a statement, the keys that sign it, and the changes of a node's standing."""
