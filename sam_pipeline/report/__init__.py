"""Looking at results: pictures of masks over images."""
