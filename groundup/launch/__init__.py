"""Starting a run on several processes, nodes and clusters."""
