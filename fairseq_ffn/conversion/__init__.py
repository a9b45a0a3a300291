"""Starting a new layout from the weights of a trained one."""
