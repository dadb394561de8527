"""What makes a run trustworthy: dynamic sampling, exact resume, signals, failing rewards, the model card."""
