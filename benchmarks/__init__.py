"""The side-by-side benchmark: the same model behind this project and what else one would pick."""
