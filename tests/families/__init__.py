"""Every family of the host's `supported_models` at tiny width: how it is built, what is tried, and the page of it."""
