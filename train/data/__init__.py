"""Where clips come from: sources of videos, and the pipeline that feeds training."""
