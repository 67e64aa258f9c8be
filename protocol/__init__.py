"""What node and cloud say to each other: ids, signed documents, messages, problem codes and limits.

Pure: no I/O, no clock, no entropy; imports neither side.
"""
