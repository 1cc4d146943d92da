"""From the winner of a sweep to a file that classifies: heads as modules, saved, loaded, used."""
