"""What a run is compared with: annotations of a COCO file, and which images and categories of the run they are of."""
