"""Cascadia, the agent: binds to the hardware, stores the licence, gates the licensed workloads, works offline."""
