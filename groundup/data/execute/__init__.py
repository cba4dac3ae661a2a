"""Where the tasks of the data step run: here, in a pool of processes, on Ray, in a Slurm array."""
