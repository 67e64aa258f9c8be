"""Messages: bodies of the operators' API by subject. `cloud.fabric.schemas` offers their names."""
