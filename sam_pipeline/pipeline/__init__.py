"""The run itself. The only package that imports Ray."""

import os

# Seconds for which Ray Data keeps the CPUs of a driver that was killed; its default is 180. Until then the next start
# gets only the rest, and may write nothing. A living driver renews its claim every 10 s. Ray reads this when it is
# imported.
os.environ.setdefault("RAY_DATA_AUTOSCALING_REQUEST_EXPIRE_TIME_S", "25")
