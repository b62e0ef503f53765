"""What is in h? Models fitted on frozen representations, scored on held-out groups."""
