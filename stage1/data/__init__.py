"""Sources of images: data sets, lists and folders, decoded into memory or streamed."""
