"""An S3 without a network: pages of keys, as s3fs gives them."""

import threading


class FakeS3:
    """What the listing uses of s3fs; requests are kept, and may be made to fail."""

    protocol = ("s3", "s3a")
    req_kw = {}  # noqa: RUF012

    def __init__(self, keys, page_size=1000):
        self.keys = sorted(keys)
        self.page_size = page_size
        self.requests = []
        self.failures = []
        self.on_request = lambda arguments: None
        self.num_running = self.max_running = 0
        self._lock = threading.Lock()

    def split_path(self, path):
        bucket, _, key = path.partition("/")
        return bucket, key, None

    def unstrip_protocol(self, name):
        return f"s3://{name}"

    def info(self, path):
        _, key, _ = self.split_path(path)
        if key in self.keys:
            return {"name": path, "size": len(key), "ETag": f'"{key}"', "type": "file"}
        if any(other.startswith(f"{key}/") for other in self.keys):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def call_s3(self, method, **arguments):
        assert method == "list_objects_v2"
        with self._lock:
            self.requests.append(arguments)
            self.num_running += 1
            self.max_running = max(self.max_running, self.num_running)
            failure = self.failures.pop() if self.failures else None
        try:
            self.on_request(arguments)
            if failure is not None:
                raise failure
            return self._page(**arguments)
        finally:
            with self._lock:
                self.num_running -= 1

    def _page(self, Bucket, Prefix, Delimiter=None, ContinuationToken=None):
        assert Bucket == "bucket"
        entries = []
        for key in self.keys:
            if not key.startswith(Prefix):
                continue
            folder, slash, _ = key[len(Prefix) :].partition("/")
            entry = ("prefix", Prefix + folder + "/") if Delimiter and slash else ("key", key)
            if entry not in entries[-1:]:
                entries.append(entry)
        first = int(ContinuationToken or 0)
        page = entries[first : first + self.page_size]
        is_truncated = first + self.page_size < len(entries)
        return {
            "IsTruncated": is_truncated,
            **({"NextContinuationToken": str(first + self.page_size)} if is_truncated else {}),
            "Contents": [
                {"Key": key, "Size": len(key), "ETag": f'"{key}"', "StorageClass": "STANDARD"}
                for kind, key in page
                if kind == "key"
            ],
            "CommonPrefixes": [{"Prefix": key} for kind, key in page if kind == "prefix"],
        }
