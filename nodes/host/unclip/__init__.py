"""Embeddings of pictures out of texts, and between embeddings."""
