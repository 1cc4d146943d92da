"""Several processes, threads behind the work, and draws that can be repeated."""
