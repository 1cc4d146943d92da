"""Results: the file, one view of it, and the tables made from it."""
