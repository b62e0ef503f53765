"""Numbers to people: figures, controls, notebooks."""
