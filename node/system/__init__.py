"""The operating system: systemd and core dumps."""
