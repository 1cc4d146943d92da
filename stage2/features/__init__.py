"""Recipes on a bank: its views, probes and experts, and the requirements of recipes."""
