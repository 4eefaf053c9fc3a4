"""The demo model: steel surface images, a small network, its training and its registration."""
