"""Use cases of Fabric, one module a subject. They contain no HTTP and no SQL: stores and ports are arguments."""
