"""Mattes: which pixels are a person, in single frames and in streams."""
