"""Where exports go, and the images that lie beside them."""
