"""Training a backbone: settings, the loop, checkpoints and unfinished runs."""
