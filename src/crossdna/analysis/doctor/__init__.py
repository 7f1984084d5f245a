"""Whether a model is what it seems: see `crossdna.analysis.doctor.examine`."""
