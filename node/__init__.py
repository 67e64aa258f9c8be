"""Cascadia, the agent: binds to the hardware, holds the licence, gates the licensed workloads, works offline."""
