"""`ImageSet` in, trained encoder out."""
