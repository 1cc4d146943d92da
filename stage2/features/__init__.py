"""Recipes on a bank: its views, linear probes and experts, and the requirements of recipes."""
