"""How well a model predicts held-out bases, beside counting models."""
