"""From the checkout to Bentos and from Bentos to OCI images."""
