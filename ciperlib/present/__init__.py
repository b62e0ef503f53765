"""Numbers to people: figures, notebooks, batches."""
