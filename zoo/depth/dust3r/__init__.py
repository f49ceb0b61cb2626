"""DUSt3R and MASt3R: points of two views in the camera of the first; cameras of several."""

NAMES = ("dust3r-*", "mast3r-*")
