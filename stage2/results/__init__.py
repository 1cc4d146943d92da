"""What comes out: the store of results, and the tables made of it."""
