"""Models from before neural networks: ``pwm:``, ``markov:`` and ``hmm:``.

They go where a checkpoint goes in ``crossdna score`` and ``crossdna benchmark``,
because everyone compares with them.
"""
