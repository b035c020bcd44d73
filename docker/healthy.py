"""The container's health check: whether the daemon of this container's configuration answers.

What is not well with a machine is no fault of the daemon, and no reason to start it anew: `replicad status` and the
alerts tell of that.
"""

from __future__ import annotations

import sys

from replicad.cli.daemon_client import needed_daemon
from replicad.model.errors import ReplicadError

try:
    answer = needed_daemon(None, "look after", "the daemon").get("/healthz")
except ReplicadError as error:
    sys.exit(str(error))  # exit code 1: "unhealthy", and the engine keeps the sentence
sys.stdout.write(f"{answer['status']}\n")
