"""A linear probe of frozen embeddings."""
