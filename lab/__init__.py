"""Real parts for a developer's machine: software TPM, private PostgreSQL, processes. Used by demo, benchmarks and tests."""
