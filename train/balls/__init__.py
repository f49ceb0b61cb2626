"""A small generator of endless video, trained on a CPU: teacher, causal start, self forcing."""
