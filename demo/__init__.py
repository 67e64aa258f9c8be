"""Command `make demo`: the product's main job, end to end, on real parts. Each step checks its own result."""
