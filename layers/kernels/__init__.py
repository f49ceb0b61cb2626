"""Array operations with more than one implementation; ``reference.py`` defines what is correct."""
