"""Ensembles of a sweep: chosen on val, folded into one head, stored beside the configurations."""
