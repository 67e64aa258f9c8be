"""The product's main job, end to end, on real parts: `make demo`. Every step checks its own outcome."""
