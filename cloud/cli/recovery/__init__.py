"""Commands: `cascade recovery`, which decides about machines that ask for their node back."""
