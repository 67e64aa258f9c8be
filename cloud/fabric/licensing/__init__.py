"""Pure: what a statement says, who may sign it, which standing follows."""
