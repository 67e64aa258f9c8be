"""Use cases of Fabric, one module a subject. They have no HTTP and no SQL: stores, ports and pure modules are given."""
