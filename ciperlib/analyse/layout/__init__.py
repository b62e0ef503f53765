"""How is it laid out? Pictures of two dimensions, and numbers that need no label."""
