"""The protocol between node and cloud: ids, signed documents, messages, problem codes and limits.

Pure: no I/O, no clock, no entropy. It imports neither side.
"""
