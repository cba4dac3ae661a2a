"""The tasks: what differs between them is data, model, loss and metrics; the loop is one."""
