"""What is written and shown: directories of runs, files in one step, standard streams, and no secret in any of it."""
