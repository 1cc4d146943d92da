"""What a sweep will cost: its time and memory, measured on a sample before it runs."""
