"""The stages of the data step: for each what its tasks are, and the pure function that does one."""
