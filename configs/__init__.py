"""Recipes: one file per run, with its command, cost and expected result on top."""
