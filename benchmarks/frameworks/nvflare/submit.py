"""Submit a job to a running NVFlare by its own API, and wait for it. Runs in the environment of NVFlare.

python -m benchmarks.frameworks.nvflare.submit ADMIN-KIT JOB
"""

from __future__ import annotations

import sys

from nvflare.fuel.flare_api.flare_api import new_secure_session

_TIMEOUT_S = 900.0


def main(kit: str, job: str) -> int:
    session = new_secure_session("admin@nvidia.com", kit, timeout=60.0)
    try:
        number = session.submit_job(job)
        session.monitor_job(number, timeout=_TIMEOUT_S, poll_interval=1.0)
        status = session.get_job_meta(number).get("status", "")
    finally:
        session.close()
    print(f"{number} {status}")
    return 0 if status == "FINISHED:COMPLETED" else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
