"""Side-by-side runs of DLBA and its peers; see README.md here."""
