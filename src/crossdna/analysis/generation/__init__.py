"""New sequences from a language model, under constraints that hold exactly."""
