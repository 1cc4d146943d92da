"""Where images come from: data sets, lists and folders, decoded in memory or as they are used."""
