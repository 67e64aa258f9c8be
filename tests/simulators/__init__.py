"""Stand-ins for what tests cannot have for real: hardware, and peers that misbehave."""
