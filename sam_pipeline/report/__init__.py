"""What a run found, for people to look at: figures, a page with charts and pictures, and a review of them."""
