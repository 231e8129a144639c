"""The one place that knows the host's insides."""
