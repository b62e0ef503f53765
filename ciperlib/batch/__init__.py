"""Run one notebook, sweep a grid, collect what was found: it knows nothing of figures."""
