"""From a checkpoint, or pretrained weights, to a bank."""
