"""Decoders that fail for every file that begins like a GIF, each in its way; here spawned processes can import them."""

import os
import signal
import time


def raises_key_error(data):
    if data[:1] == b"G":
        raise KeyError("MPO")


def kills_its_process(data):
    if data[:1] == b"G":
        os.kill(os.getpid(), signal.SIGSEGV)


def sleeps(data):
    if data[:1] == b"G":
        time.sleep(600)
