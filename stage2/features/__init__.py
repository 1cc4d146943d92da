"""Where a recipe meets a bank: views, probes, experts, and what is required of both."""
