"""What the runs of these tests have in common."""

NUM_PHOTOS = 8
"""More than three starts commit before they are killed, few enough for a test."""

SETTINGS = ("--model-type", "vit_t", "--points-per-side", "3")
"""Nine prompts an image: a second or two of work on one core."""

SMALL_SHARDS = ("--shard-rows", "1", "--commit-interval-s", "0.1", "--threads", "1")
"""A commit for every image or two; one thread, so that sums of floats never depend on the machine's load."""
