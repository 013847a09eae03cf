"""The run itself. The only package that imports Ray."""

import os

# Ray Data keeps the share of a driver that was killed for so many seconds, by default 180: for so long the next start
# would get what is left, and may write nothing. A living driver renews its share every ten. Read when Ray is imported.
os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "25")
