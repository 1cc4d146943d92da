"""The cost of a sweep in time and memory, measured on a sample before it runs."""
