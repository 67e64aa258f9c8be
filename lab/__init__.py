"""Real parts of a developer's machine, for demo, benchmarks and tests: software TPM, private PostgreSQL, processes."""
