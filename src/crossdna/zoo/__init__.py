"""What is known of checkpoints and their families, told without loading any."""
