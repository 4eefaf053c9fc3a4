"""The images that the stack is made of, shared with tests/images."""

from tests.images.fixtures import base_image, engine, images

__all__ = ["base_image", "engine", "images"]
