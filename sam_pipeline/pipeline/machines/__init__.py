"""The machines of a cluster: connecting, dividing them among the stages, what is done when some are lost."""
