"""Fine-tuned models and their baselines: predictions, reports, audits, benchmarks."""
