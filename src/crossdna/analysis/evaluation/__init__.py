"""How well a masked model predicts held-out bases, beside counting models."""
