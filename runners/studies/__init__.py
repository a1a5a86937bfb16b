"""One file per experiment; each writes results/<study>/ and says how to repeat it."""
