"""The compiled pass: a tile over consecutive batches in one call, in C++."""
