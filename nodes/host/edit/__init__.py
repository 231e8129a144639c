"""Edit models: how much the reference counts, and what of the source is held."""
