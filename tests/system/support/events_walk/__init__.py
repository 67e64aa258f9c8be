"""The walk over events: producers that are killed, stopped and held open, and a reader that checks what it sees."""
