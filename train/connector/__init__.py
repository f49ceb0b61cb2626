"""A connector from pictures to words, learned on labelled frames with captions of a template."""
